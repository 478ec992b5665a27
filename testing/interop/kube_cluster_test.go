package interop

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keepd/keepd/testing/interop/harness"
)

// kubeCluster is a kube-apiserver on three members.
type kubeCluster struct {
	t       *testing.T
	members []*api
	network *harness.Network
	load    *kubeLoad
	// The time within which every kind of request is answered again.
	patience time.Duration
}

// A kube-apiserver goes on while the leader of its three members is killed ten times, one member is replaced
// with an empty disk and the leader is cut off from the others. KEEPD_KUBE_KILLS sets another number.
func TestKubernetesOnThreeMembers(t *testing.T) {
	t.Parallel()
	kills := 10
	if text := os.Getenv("KEEPD_KUBE_KILLS"); text != "" {
		kills = must(strconv.Atoi(text))(t)
	}
	variants := []harness.Options{{Flavor: harness.Etcd}}
	if harness.KeepdBin() != "" {
		variants = append(variants, harness.Options{Flavor: harness.KeepdSealed, Encryption: mixedSealing})
	}
	for _, options := range variants {
		t.Run(string(options.Flavor), func(t *testing.T) {
			options.PKI = kubePKI(t)
			options.Args = []string{"--snapshot-count=500", "--watch-progress-notify-interval=5s"}
			stores, network := harness.StartOnNetwork(t, 3, options)
			c := &kubeCluster{t: t, network: network, patience: 90 * time.Second}
			if !options.Flavor.IsKeepd() {
				// A third of what kube-apiserver asks hangs for 7 to 14 s at etcd's leader that is cut off.
				c.patience = 5 * time.Minute
			}
			var urls []string
			for _, s := range stores {
				c.members = append(c.members, newAPI(t, s))
				urls = append(urls, s.ClientURL)
			}
			k := kubeOn(t, stores[0], "--etcd-servers="+strings.Join(urls[1:], ","))
			k.must("POST", "/api/v1/namespaces", object{"apiVersion": "v1", "kind": "Namespace",
				"metadata": object{"name": "load"}})
			c.load = startKubeLoad(t, k)
			c.goesOn("at first")
			for kill := range kills {
				leader := c.leader()
				c.members[leader].Kill()
				c.goesOn(fmt.Sprintf("after kill %d", kill+1))
				c.members[leader].Launch()
				c.serves(leader)
				switch kill {
				case kills / 3:
					c.cutLeaderOff()
				case kills * 2 / 3:
					c.replaceFollower()
				}
			}
			c.goesOn("at last")
			c.load.end()
			equal(t, "kube-apiserver lives", k.apiserver.Exited(), false)
			k.waitReady()
			c.check(k)
			if options.Flavor.IsKeepd() {
				c.searchDisks()
			}
		})
	}
}

// goesOn waits until every kind of request is answered again.
func (c *kubeCluster) goesOn(when string) {
	c.t.Helper()
	acknowledged, lists := c.load.acknowledged.Load()+40, c.load.lists.Load()+2
	harness.Eventually(c.t, c.patience, "writes and lists go on "+when, func() bool {
		return c.load.acknowledged.Load() >= acknowledged && c.load.lists.Load() >= lists
	})
}

// serves waits for a member that was started again, over a new connection: the old one may be in the middle of
// a long pause between two attempts.
func (c *kubeCluster) serves(number int) {
	c.t.Helper()
	c.members[number].WaitReady()
	c.members[number] = newAPI(c.t, c.members[number].Store)
}

// leader is the number of the member that all take for the leader.
func (c *kubeCluster) leader() int { return leaderOf(c.t, c.members) }

// cutLeaderOff takes the network from the leader until another one leads.
func (c *kubeCluster) cutLeaderOff() {
	c.t.Helper()
	old := c.leader()
	id := c.members[old].status().Header.MemberId
	c.network.Isolate(c.members[old].Store)
	harness.Eventually(c.t, 30*time.Second, "another member leads", func() bool {
		leader := c.members[(old+1)%3].status().Leader
		return leader != 0 && leader != id
	})
	c.goesOn("while the old leader is cut off")
	c.network.Mend()
	harness.Eventually(c.t, 30*time.Second, "the old leader follows", func() bool {
		status := c.members[old].status()
		return status.Leader != 0 && status.Leader != id
	})
}

// replaceFollower kills a follower, removes it, empties its disk, and adds it as a learner that is promoted.
func (c *kubeCluster) replaceFollower() {
	c.t.Helper()
	t := c.t
	leader := c.leader()
	lost, other := c.members[(leader+1)%3], c.members[leader]
	old := lost.status().Header.MemberId
	lost.Kill()
	k := &kubeadm{t: t, pki: lost.PKI, members: []*harness.Store{other.Store, c.members[(leader+2)%3].Store}}
	client := k.client()
	k.retry("remove", func(ctx context.Context) error { return second(client.MemberRemove(ctx, old)) })
	if err := os.RemoveAll(lost.DataDir); err != nil {
		t.Fatal(err)
	}
	c.goesOn("with two members")
	// The sequence of kubeadm: add as a learner, start, promote.
	k.join(lost.Store)
	c.serves((leader + 1) % 3)
	c.goesOn("with the new member")
	equal(t, "a new member", c.members[(leader+1)%3].status().Header.MemberId != old, true)
}

// check compares all that was acknowledged with what is there, on each member and through the API.
func (c *kubeCluster) check(k *kube) {
	c.t.Helper()
	t, l := c.t, c.load
	list := k.must("GET", kubeLoadPath, nil)
	known := l.known()
	l.compare(known, known, list)
	at := versionOf(list)
	harness.Eventually(t, 60*time.Second, "the reflector is told of everything", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.seen.missing(l.writes)) == 0
	})
	l.seen.stop()
	for _, item := range list["items"].([]any) {
		o := item.(object)
		if cached := l.seen.objects[nameOf(o)]; cached.version != versionOf(o) || cached.text != textOf(o) {
			t.Errorf("%s: the reflector has %+v, the list %q at %d", nameOf(o), cached, textOf(o), versionOf(o))
		}
	}
	equal(t, "objects of the reflector", len(l.seen.objects), len(list["items"].([]any)))
	checkMembers(t, c.members)
	for _, m := range c.members {
		found := m.get(&pb.RangeRequest{Key: []byte("/registry/configmaps/load/"),
			RangeEnd: []byte("/registry/configmaps/load0"), Serializable: true, KeysOnly: true})
		stored := map[string]int64{}
		for _, kv := range found.Kvs {
			stored[strings.TrimPrefix(string(kv.Key), "/registry/configmaps/load/")] = kv.ModRevision
		}
		for name, entry := range known {
			if version := stored[name]; !entry.leaves && version < entry.version {
				t.Errorf("%s has %s at %d, acknowledged was %d", m.Name, name, version, entry.version)
			}
		}
	}
	t.Logf("%d acknowledged, %d failed, %d lists, %d watches, %d relists, the longest wait of a writer %d ms, "+
		"revision %d", l.acknowledged.Load(), l.failed.Load(), l.lists.Load(), l.seen.watches,
		len(l.seen.relisted), l.longest.Load(), at)
}

// searchDisks looks for what was written on the disks of the members.
func (c *kubeCluster) searchDisks() {
	c.t.Helper()
	wanted := canaries{}
	for _, text := range []string{"/registry/", "kube-system", "system:masters"} {
		wanted.add(text, text)
	}
	for _, m := range c.members {
		m.Terminate(c.t)
		for where := range wanted.sightings(c.t, m.DataDir) {
			c.t.Errorf("%s: found %s", m.Name, where)
		}
	}
}
