package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keepd/keepd/testing/interop/harness"
)

// fill writes what a snapshot must carry: history, deletions, leases, a compaction, large values.
func (a *api) fill() {
	a.t.Helper()
	script(a.t, a, 11)
	a.put("large", strings.Repeat("0123456789abcdef", 60_000))
	for i := range 200 {
		a.put(fmt.Sprintf("/registry/secrets/default/s%03d", i), fmt.Sprintf("secret number %d", i))
	}
	a.put("history", "old")
	a.put("history", "new")
	a.grant(4711, 5000)
	a.putLeased("leased", 4711)
}

func (a *api) everything(revision int64) []*mvccpb.KeyValue {
	a.t.Helper()
	r := &pb.RangeRequest{Key: []byte("\x00"), RangeEnd: []byte("\x00"), Revision: revision}
	return a.get(r).Kvs
}

// save writes a snapshot with the given etcdctl.
func save(t *testing.T, ctl program, s *harness.Store) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "snap.db")
	// etcd names the version of its storage once it has migrated that, some time after its start.
	var out string
	harness.Eventually(t, 10*time.Second, "a snapshot with the version of the storage", func() bool {
		out = ctl.must(t, append(s.CtlArgs(), "snapshot", "save", file)...)
		return s.Flavor.IsKeepd() || strings.Contains(out, "Server version")
	})
	equal(t, "snapshot save", out, fmt.Sprintf("Snapshot saved at %s\nServer version 3.7.0\n", file))
	info := must(os.Stat(file))(t)
	equal(t, "only the owner may read it", info.Mode().Perm(), 0o600)
	if _, err := os.Stat(file + ".part"); err == nil {
		t.Error("the temporary file is left behind")
	}
	return file
}

// keepRevision is for tests that compare revisions before and after: keepd's restore bumps them
// unless told not to, etcd's only if told to.
const keepRevision = "--bump-revision=0"

// restore makes a store of a flavor from a snapshot and starts it.
func restore(t *testing.T, utl program, file string, flavor harness.Flavor, encryption string, extra ...string) *api {
	t.Helper()
	s := harness.Prepare(t, harness.Options{Flavor: flavor, Encryption: encryption})
	args := []string{"snapshot", "restore", file, "--data-dir=" + s.DataDir, "--name=" + s.Name,
		"--initial-cluster=" + s.Name + "=" + s.PeerURL, "--initial-advertise-peer-urls=" + s.PeerURL}
	equal(t, "restore prints nothing", utl.must(t, append(args, extra...)...), "")
	s.Launch()
	s.WaitReady()
	return newAPI(t, s)
}

// wantSame compares the contents of a restored store with what was saved.
func wantSame(t *testing.T, got *api, want *saved) {
	t.Helper()
	equal(t, "revision", got.revision(), want.revision)
	equal(t, "contents", fmt.Sprint(got.everything(0)) == fmt.Sprint(want.kvs), true)
	old := got.get(&pb.RangeRequest{Key: []byte("history"), Revision: want.revision - 2})
	equal(t, "history", string(old.Kvs[0].Value), "old")
	equal(t, "hash", got.hashKV(want.revision).Hash, want.hash)
	lease := got.timeToLive(4711)
	equal(t, "lease", lease.GrantedTTL, 5000)
	equal(t, "leased key", fmt.Sprintf("%s", lease.Keys), "[leased]")
	w := got.watchStream()
	w.create(&pb.WatchCreateRequest{Key: []byte("history"), StartRevision: want.revision - 2, PrevKv: true})
	equal(t, "watch over the restore", strings.Count(w.events(2), "PUT:history"), 2)
	equal(t, "the next revision", got.put("after", "1").Header.Revision, want.revision+1)
	got.Restart()
	equal(t, "after a restart", string(got.one("after").Kvs[0].Value), "1")
}

type saved struct {
	revision int64
	kvs      []*mvccpb.KeyValue
	hash     uint32
}

func (a *api) contents() *saved {
	revision := a.revision()
	return &saved{revision, a.everything(0), a.hashKV(revision).Hash}
}

func TestSnapshotsBetweenStores(t *testing.T) {
	t.Parallel()
	realCtl, realUtl := realTool(t, "etcdctl"), realTool(t, "etcdutl")
	for _, from := range harness.Flavors() {
		t.Run("from "+string(from), func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: from}))
			a.fill()
			want := a.contents()
			ctl := realCtl
			if from.IsKeepd() {
				ctl = ownTool("etcdctl")
			}
			file := save(t, ctl, a.Store)
			status := realUtl.must(t, "snapshot", "status", file, "-w", "json")
			if !strings.Contains(status, fmt.Sprintf(`"revision":%d,"totalKey":%d,`, want.revision, len(want.kvs))) {
				t.Errorf("etcdutl says %s of %d keys at %d", status, len(want.kvs), want.revision)
			}
			for _, to := range harness.Flavors() {
				t.Run("to "+string(to), func(t *testing.T) {
					utl, encryption, extra := realUtl, "", []string{keepRevision}
					if to.IsKeepd() {
						utl = ownTool("etcdutl")
					}
					if to == harness.KeepdSealed || (from == harness.KeepdSealed && to.IsKeepd()) {
						encryption = harness.SealAll
						config := filepath.Join(t.TempDir(), "encryption.yaml")
						if err := os.WriteFile(config, []byte(encryption), 0o600); err != nil {
							t.Fatal(err)
						}
						extra = append(extra, "--encryption-provider-config="+config)
					}
					b := restore(t, utl, file, to, encryption, extra...)
					if from == harness.KeepdSealed && !to.IsKeepd() {
						// Sealed values stay sealed in the file: etcd sees Kubernetes' ciphertext.
						equal(t, "revision", b.revision(), want.revision)
						kvs := b.everything(0)
						equal(t, "keys", keys(kvs) == keys(want.kvs), true)
						for _, kv := range kvs {
							if !strings.HasPrefix(string(kv.Value), "k8s:enc:aescbc:v1:key1:") {
								t.Fatalf("the value of %q is not sealed", kv.Key)
							}
						}
						return
					}
					wantSame(t, b, want)
				})
			}
		})
	}
}

func TestRestoreBumpsRevisions(t *testing.T) {
	t.Parallel()
	for _, to := range harness.Flavors() {
		t.Run(string(to), func(t *testing.T) {
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Etcd}))
			a.put("a", "1") // 2
			a.put("a", "2") // 3
			utl, extra := realTool(t, "etcdutl"), []string{"--bump-revision=1000", "--mark-compacted"}
			if to.IsKeepd() {
				utl = ownTool("etcdutl")
			}
			file := save(t, realTool(t, "etcdctl"), a.Store)
			if to == harness.KeepdSealed {
				config := filepath.Join(t.TempDir(), "encryption.yaml")
				if err := os.WriteFile(config, []byte(harness.SealAll), 0o600); err != nil {
					t.Fatal(err)
				}
				extra = append(extra, "--encryption-provider-config="+config)
			}
			b := restore(t, utl, file, to, "", extra...)
			equal(t, "revision", b.revision(), 1003)
			equal(t, "value", string(b.one("a").Kvs[0].Value), "2")
			equal(t, "mod revision", b.one("a").Kvs[0].ModRevision, 3)
			_, err := b.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("a"), Revision: 500})
			wantError(t, err, 11, errCompacted)
			w := b.watchStream()
			w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
			equal(t, "older watchers are told", w.next().CompactRevision, 1003)
			equal(t, "the next revision", b.put("b", "").Header.Revision, 1004)
		})
	}
}

// Rule 9.11: a restore under etcd's names bumps by a billion unless told not to, and what a client
// reads is as it was.
func TestRestoreBumpsRevisionsByDefault(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Etcd}))
	a.fill()
	want := a.contents()
	file := save(t, realTool(t, "etcdctl"), a.Store)
	for _, tool := range []string{"etcdutl", "etcdctl"} {
		t.Run(tool, func(t *testing.T) {
			t.Parallel()
			b := restore(t, ownTool(tool), file, harness.Keepd, "")
			bumped := want.revision + 1_000_000_000
			equal(t, "revision", b.revision(), bumped)
			equal(t, "contents", fmt.Sprint(b.everything(0)) == fmt.Sprint(want.kvs), true)
			_, err := b.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("history"), Revision: want.revision + 1})
			wantError(t, err, 11, errCompacted)
			w := b.watchStream()
			w.create(&pb.WatchCreateRequest{Key: []byte("history"), StartRevision: want.revision + 1})
			equal(t, "a watcher from before is told", w.next().CompactRevision, bumped)
			equal(t, "the next revision", b.put("after", "1").Header.Revision, bumped+1)
			b.Restart()
			equal(t, "after a restart", b.one("after").Kvs[0].ModRevision, bumped+1)
			again := save(t, ownTool("etcdctl"), b.Store)
			c := restore(t, realTool(t, "etcdutl"), again, harness.Etcd, "")
			equal(t, "etcd takes it over", c.one("after").Header.Revision, bumped+1)
		})
	}
}

// What is printed beside the file: etcd's log lines, what was done, and a line to start with.
func TestRestoreTellsWhatItDid(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Etcd}))
	a.put("a", "1") // 2
	file := save(t, realTool(t, "etcdctl"), a.Store)
	own, realUtl := ownTool("etcdutl"), realTool(t, "etcdutl")
	for _, bump := range [][]string{nil, {keepRevision}, {"--bump-revision=5", "--mark-compacted"}} {
		args := append([]string{"snapshot", "restore", file}, bump...)
		dir := filepath.Join(t.TempDir(), "d")
		got := own.run(t, "", append(args, "--data-dir="+dir)...)
		equal(t, "exit code", got.Code, 0)
		if bump == nil {
			args = append(args, "--bump-revision=1000000000", "--mark-compacted")
		}
		want := realUtl.run(t, "", append(args, "--data-dir="+filepath.Join(t.TempDir(), "d"))...)
		// The members, the cluster and the bump are told in the very words.
		for _, message := range []string{"added member", "bumping latest revision", "marking revision compacted"} {
			equal(t, message, logFields(got.Stderr, message), logFields(want.Stderr, message))
		}
		for _, message := range []string{"\trestoring snapshot\t", "\trestored snapshot\t"} {
			equal(t, message, strings.Count(got.Stderr, message), 1)
		}
		words := "revision bumped by"
		if len(bump) == 1 {
			words = "revision kept at 2"
		}
		equal(t, words, strings.Contains(got.Stderr, words), true)
	}
}

// logFields is what follows a message in etcdutl's log, one line for each time.
func logFields(log, message string) string {
	var fields strings.Builder
	for line := range strings.Lines(log) {
		if _, found, ok := strings.Cut(line, "\t"+message+"\t"); ok {
			fields.WriteString(found)
		}
	}
	return fields.String()
}

// Real etcdutl and keepd's must say the same about the same file.
func TestEtcdutlOnTheSameFiles(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	realUtl, ownUtl := realTool(t, "etcdutl"), ownTool("etcdutl")
	for _, from := range harness.Flavors() {
		t.Run(string(from), func(t *testing.T) {
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: from}))
			a.fill()
			file := save(t, realTool(t, "etcdctl"), a.Store)
			for _, format := range []string{"simple", "json", "table", "fields"} {
				args := []string{"snapshot", "status", file, "-w", format}
				equal(t, "status as "+format, ownUtl.must(t, args...), realUtl.must(t, args...))
			}
			garbage := filepath.Join(t.TempDir(), "garbage")
			content := must(os.ReadFile(file))(t)
			content[len(content)-1] ^= 1
			if err := os.WriteFile(garbage, content, 0o600); err != nil {
				t.Fatal(err)
			}
			busy := t.TempDir()
			if err := os.WriteFile(filepath.Join(busy, "x"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			fresh := func() string { return "--data-dir=" + filepath.Join(t.TempDir(), "d") }
			for _, args := range [][]string{
				{"snapshot", "status", "/nonexistent"},
				{"snapshot", "restore"},
				{"snapshot", "restore", "/nonexistent", fresh()},
				{"snapshot", "restore", file, "--data-dir=" + busy},
				{"snapshot", "restore", file, fresh(), "--bump-revision=5"},
				{"snapshot", "restore", file, fresh(), "--bump-revision=0", "--mark-compacted"},
				{"snapshot", "restore", file, fresh(), "--name=foo"},
				{"snapshot", "restore", file, fresh(), "--initial-advertise-peer-urls="},
				{"snapshot", "restore", file, fresh(), "--initial-advertise-peer-urls=http://127.0.0.1:1"},
				{"snapshot", "restore", file, fresh(), "--initial-advertise-peer-urls=http://localhost:1,http://localhost:2"},
				{"snapshot", "restore", garbage, fresh()},
				{"version"},
			} {
				got, want := ownUtl.run(t, "", args...), realUtl.run(t, "", args...)
				what := strings.Join(args[:min(len(args), 2)], " ")
				equal(t, what+": exit code", got.Code, want.Code)
				equal(t, what+": error", lastError(got.Stderr), lastError(want.Stderr))
				equal(t, what+": output", got.Stdout, want.Stdout)
			}
			// This one changes the file, so it comes last, each on its own copy.
			hash := func(utl program) string {
				copied := filepath.Join(t.TempDir(), "copy.db")
				if err := os.WriteFile(copied, must(os.ReadFile(file))(t), 0o600); err != nil {
					t.Fatal(err)
				}
				return utl.must(t, "hashkv", copied, "-w", "json")
			}
			want := hash(realUtl)
			equal(t, "hashkv", hash(ownUtl), want)
			var answer struct{ Hash uint32 }
			if err := json.Unmarshal([]byte(want), &answer); err != nil {
				t.Fatal(err)
			}
			if from != harness.KeepdSealed {
				equal(t, "as the live store says", answer.Hash, a.hashKV(0).Hash)
			}
		})
	}
}

// etcdctl lost `snapshot restore` and `snapshot status` in 3.6; scripts still call them.
func TestOwnEtcdctlStillRestores(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Etcd}))
	a.fill()
	want := a.contents()
	file := save(t, realTool(t, "etcdctl"), a.Store)
	own := ownTool("etcdctl")
	equal(t, "status", own.must(t, "snapshot", "status", file),
		realTool(t, "etcdutl").must(t, "snapshot", "status", file))
	wantSame(t, restore(t, own, file, harness.Keepd, "", keepRevision), want)
}
