package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// says waits until a member's log has a text.
func says(t *testing.T, s *harness.Store, text string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, s.Name+" says "+text, func() bool {
		log := must(os.ReadFile(s.LogFile))(t)
		return strings.Contains(string(log), text)
	})
}

// Members of etcd and of keepd never form a cluster; each of the two says why, and the others go on.
func TestEtcdAndKeepdDoNotMix(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	t.Run("an etcd member among keepd's", func(t *testing.T) {
		t.Parallel()
		var members []*harness.Store
		var peers []string
		for i, flavor := range []harness.Flavor{harness.KeepdSealed, harness.KeepdSealed, harness.Etcd} {
			name := []string{"m1", "m2", "m3"}[i]
			members = append(members, harness.Prepare(t, harness.Options{Flavor: flavor, Name: name}))
			peers = append(peers, members[i].InitialCluster)
		}
		for _, m := range members {
			m.InitialCluster = strings.Join(peers, ",")
			m.Launch()
		}
		a := newAPI(t, members[0])
		a.WaitReady()
		a.put("a", "1")
		says(t, members[0], "this peer is an etcd member ("+members[2].PeerURL)
		says(t, members[0], "etcdctl snapshot save")
		says(t, members[2], "this is a keepd member")
		a.put("a", "2")
	})
	t.Run("an etcd member that joins keepd's", func(t *testing.T) {
		t.Parallel()
		first := harness.Start(t, harness.Options{Flavor: harness.KeepdSealed})
		joining := refusedToJoin(t, first, harness.Etcd)
		says(t, joining, "this is a keepd member")
	})
	t.Run("a keepd member that joins etcd's", func(t *testing.T) {
		t.Parallel()
		first := harness.Start(t, harness.Options{Flavor: harness.Etcd})
		joining := refusedToJoin(t, first, harness.KeepdSealed)
		says(t, joining, "this peer is an etcd member ("+first.PeerURL)
		says(t, joining, "cannot fetch cluster info from peer urls")
		if left, _ := filepath.Glob(filepath.Join(joining.DataDir, "*")); len(left) != 0 {
			t.Errorf("the refused start leaves %v", left)
		}
	})
}

// refusedToJoin starts a member that is to join the cluster of another one, and ends by itself.
func refusedToJoin(t *testing.T, first *harness.Store, flavor harness.Flavor) *harness.Store {
	t.Helper()
	joining := harness.Prepare(t, harness.Options{Flavor: flavor, Name: "m2"})
	joining.InitialCluster = first.InitialCluster + "," + joining.InitialCluster
	joining.Launch("--initial-cluster-state=existing")
	if joining.Wait(t, 30*time.Second) == 0 {
		t.Errorf("%s joins a cluster of another kind", flavor)
	}
	return joining
}
