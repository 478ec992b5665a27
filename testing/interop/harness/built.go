package harness

// Feature is a part of etcd that keepd may not have yet.
type Feature string

// Features that some tests need. COMPAT.md tells users the same.
const (
	Users       Feature = "users and roles"
	Gateway     Feature = "the JSON gateway"
	LockService Feature = "the lock and election services"
	Mirror      Feature = "etcdctl make-mirror"
)

// notBuilt is what this version of keepd does not have. What is listed here is tested to be
// refused clearly (TestWhatIsNotBuiltIsRefused); the tests that need it run against etcd only.
// Building a feature means taking it off this list.
var notBuilt = map[Feature]bool{
	Users:       true,
	Gateway:     true,
	LockService: true,
	Mirror:      true,
}

// Has tells whether a store has a feature.
func (f Flavor) Has(feature Feature) bool {
	return !f.IsKeepd() || !notBuilt[feature]
}

// FlavorsWith are the stores to test that have all the features.
func FlavorsWith(features ...Feature) []Flavor {
	var found []Flavor
	for _, flavor := range Flavors() {
		has := true
		for _, feature := range features {
			has = has && flavor.Has(feature)
		}
		if has {
			found = append(found, flavor)
		}
	}
	return found
}
