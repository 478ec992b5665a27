package interop

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keepd/keepd/testing/interop/harness"
)

// canaries are byte strings that must not be found where everything is sealed.
type canaries map[string][]byte

func (c canaries) add(name, text string) string {
	c[name] = []byte(text)
	return text
}

// sightings searches every file below the paths for each canary, also in hex and base64.
func (c canaries) sightings(t *testing.T, paths ...string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	files := 0
	for _, path := range paths {
		err := filepath.WalkDir(path, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			files++
			content, err := os.ReadFile(file)
			for name, canary := range c {
				for _, form := range [][]byte{
					canary, []byte(hex.EncodeToString(canary)), []byte(base64.StdEncoding.EncodeToString(canary)),
				} {
					if bytes.Contains(content, form) || bytes.Contains([]byte(file), form) {
						found[fmt.Sprintf("%s in %s", name, filepath.Base(file))] = true
					}
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 2 {
		t.Fatalf("only %d files to search in %v", files, paths)
	}
	return found
}

// sing leaves canaries on every path that writes to disk.
func sing(t *testing.T, a *api, c canaries, round int) {
	t.Helper()
	name := func(what string) string { return fmt.Sprintf("canary-%s-%d-kq7vx3", what, round) }
	value := func(what string) string { return c.add(what+" value", name(what+"-value")) }
	key := func(what string) string { return c.add(what+" key", name(what+"-key")) }
	a.put(key("put"), value("put"))
	a.put(name("put-key"), value("overwritten"))
	a.put(key("deleted"), value("deleted"))
	a.del(name("deleted-key"))
	a.txn(&pb.TxnRequest{
		Compare: []*pb.Compare{compare(key("compared"), pb.Compare_VALUE, pb.Compare_EQUAL, value("compared"))},
		Success: ops(opPut(key("not taken"), value("not taken"))),
		Failure: ops(opPut(key("txn"), value("txn")), opDel(key("range"), key("end"))),
	})
	lease := a.grant(int64(1000+round), 2000)
	a.putLeased(key("leased"), lease.ID)
	large := value("large")
	a.put(key("large"), string(bytes.Repeat([]byte(large), 20_000)))
	secret := fmt.Sprintf("/registry/secrets/default/%s", key("secret"))
	a.put(secret, value("secret"))
	w := a.watchStream()
	w.create(&pb.WatchCreateRequest{Key: []byte(secret), StartRevision: 1, PrevKv: true})
	w.next()
	// What is refused must not leave a trace either, in the log least of all.
	_, _ = a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte(key("refused")), Value: []byte(value("refused")), Lease: 99})
	_, _ = a.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte(key("read")), Revision: 1 << 40})
}

func TestNothingPlainIsFoundInASealedStore(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	for _, flavor := range []harness.Flavor{harness.Keepd, harness.KeepdSealed} {
		t.Run(string(flavor), func(t *testing.T) {
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: flavor}))
			c := canaries{}
			sing(t, a, c, 1)
			before := c.sightings(t, a.DataDir)
			if flavor == harness.Keepd {
				// The control: where nothing is sealed the search does find them.
				if len(before) < 3 {
					t.Errorf("the search finds only %v in a plain store", before)
				}
				return
			}
			a.Restart()
			sing(t, a, c, 2)
			equal(t, "compact", a.compact(a.revision(), true), nil)
			must(a.maintenance.Defragment(ctx(t), &pb.DefragmentRequest{}))(t)
			for i := range 3000 {
				a.put(c.add("many", fmt.Sprintf("canary-many-kq7vx3-%04d", i)), "value-kq7vx3-many")
			}
			c.add("many value", "value-kq7vx3-many")
			snapshot := save(t, realTool(t, "etcdctl"), a.Store)
			a.Kill()
			for where := range c.sightings(t, a.DataDir, a.LogFile) {
				t.Errorf("found %s", where)
			}
			a.Launch()
			a.WaitReady()
			sing(t, a, c, 3)
			a.Terminate(t)
			for where := range c.sightings(t, a.DataDir, a.LogFile) {
				t.Errorf("found %s after a clean end", where)
			}
			// What a restore writes is sealed too, at the latest once the store has started on it.
			config := filepath.Join(t.TempDir(), "encryption.yaml")
			if err := os.WriteFile(config, []byte(harness.SealAll), 0o600); err != nil {
				t.Fatal(err)
			}
			b := restore(t, ownTool("etcdutl"), snapshot, flavor, "", "--encryption-provider-config="+config)
			equal(t, "restored", string(b.one("canary-many-kq7vx3-2999").Kvs[0].Value), "value-kq7vx3-many")
			b.Kill()
			for where := range c.sightings(t, b.DataDir, b.LogFile) {
				t.Errorf("found %s in the restored store", where)
			}
			t.Run("cluster", canariesOfACluster)
		})
	}
}

func TestASealedStoreNeedsItsKey(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.KeepdSealed}))
	a.put("a", "1")
	a.Kill()
	plain := harness.Prepare(t, harness.Options{Flavor: harness.Keepd, DataDir: a.DataDir})
	plain.PeerURL, plain.InitialCluster = a.PeerURL, a.InitialCluster
	plain.Launch()
	if plain.Wait(t, 20*time.Second) == 0 {
		t.Error("a store without its key ends with success")
	}
	if !bytes.Contains([]byte(plain.Tail(4000)), []byte("key1")) {
		t.Errorf("the missing key is not named:\n%s", plain.Tail(4000))
	}
	a.Launch()
	a.WaitReady()
	equal(t, "with the key all is there", string(a.one("a").Kvs[0].Value), "1")
}

// The members of a sealed cluster, one of which gets its data by a snapshot from the leader.
func canariesOfACluster(t *testing.T) {
	c := canaries{}
	members := harness.StartCluster(t, 3, harness.Options{
		Flavor: harness.KeepdSealed, Args: []string{"--snapshot-count=200"}})
	a := newAPI(t, members[0])
	members[2].Kill()
	harness.Eventually(t, 20*time.Second, "two members have a leader", func() bool {
		_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("x")})
		return err == nil
	})
	sing(t, a, c, 1)
	for i := range 1500 {
		a.put(c.add("many", fmt.Sprintf("canary-many-kq7vx3-%04d", i)), "v")
	}
	members[2].Launch()
	members[2].WaitReady()
	late := newAPI(t, members[2])
	equal(t, "the late member has it all", late.one("canary-many-kq7vx3-1499").Count, 1)
	for _, m := range members {
		m.Kill()
		for where := range c.sightings(t, m.DataDir, m.LogFile) {
			t.Errorf("member %s: found %s", m.Name, where)
		}
	}
}
