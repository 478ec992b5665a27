package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keepd/keepd/testing/interop/harness"
)

// fillKeys puts many small keys, some at a time.
func (a *api) fillKeys(prefix string, count int) {
	a.t.Helper()
	for from := 0; from < count; from += 100 {
		var puts []*pb.RequestOp
		for i := from; i < min(from+100, count); i++ {
			puts = append(puts, opPut(fmt.Sprintf("%s%06d", prefix, i), "v"))
		}
		a.txn(&pb.TxnRequest{Success: puts})
	}
}

// A transaction of 40 KB that compares a range thousands of times.
func costlyTxn(from, to string) *pb.TxnRequest {
	compare := &pb.Compare{
		Key: []byte(from), RangeEnd: []byte(to), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER,
		TargetUnion: &pb.Compare_Version{Version: 0},
	}
	nested := &pb.TxnRequest{}
	for range 64 {
		nested.Compare = append(nested.Compare, compare)
	}
	request := &pb.TxnRequest{}
	for range 32 {
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: nested}}
		request.Success = append(request.Success, op)
	}
	request.Success = append(request.Success, opPut("costly", "v"))
	return request
}

// etcd takes such a request and then answers nobody for as long as it takes.
func TestASmallRequestWithALargeCostIsRefused(t *testing.T) {
	t.Parallel()
	if harness.KeepdBin() == "" {
		t.Skip("needs keepd")
	}
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Keepd}))
	a.fillKeys("c/", 5000)
	_, err := a.kv.Txn(ctx(t), costlyTxn("c/", "c0"))
	wantError(t, err, codes.InvalidArgument, "keepd: too many keys in txn request: its comparisons, "+
		"ranges and deletes look at more than 2000000 keys in all; split it, or name smaller ranges")
	a.put("next", "v")
	equal(t, "nothing of it was applied", a.one("costly").Count, 0)
	// The same over fewer keys is answered.
	equal(t, "succeeded", a.txn(costlyTxn("c/000000", "c/000300")).Succeeded, true)
}

// damageOldSegment flips a bit in a complete segment with everything so far; the store is stopped then.
// It has to begin with two writes of one key, of which a compaction leaves one for a rewrite to drop.
func (a *api) damageOldSegment(place func(content []byte) int) string {
	a.t.Helper()
	segments := func() []string {
		return must(filepath.Glob(filepath.Join(a.DataDir, "member", "store", "seg-*.kd")))(a.t)
	}
	a.Terminate(a.t)
	filled := segments()[len(segments())-1]
	a.Launch()
	a.WaitReady()
	a.put("new", "v")
	equal(a.t, "compact", a.compact(3, true), nil)
	must(a.maintenance.Defragment(ctx(a.t), &pb.DefragmentRequest{}))(a.t)
	harness.Eventually(a.t, 20*time.Second, "a rewrite", func() bool {
		return !slices.Contains(segments(), filled)
	})
	a.Terminate(a.t)
	var damaged string
	var content []byte
	for _, file := range segments() {
		if found := must(os.ReadFile(file))(a.t); len(found) > len(content) {
			damaged, content = file, found
		}
	}
	content[place(content)] ^= 4
	if err := os.WriteFile(damaged, content, 0o600); err != nil {
		a.t.Fatal(err)
	}
	return damaged
}

// A bit flips in a file that only old records lie in.
func TestADamagedSegmentEndsNoMember(t *testing.T) {
	t.Parallel()
	if harness.KeepdBin() == "" {
		t.Skip("needs keepd")
	}
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Keepd}))
	value := strings.Repeat("v", 2000)
	a.put("dead", "1")
	a.put("dead", "2")
	for i := range 200 {
		a.put(fmt.Sprintf("k%03d", i), value)
	}
	damaged := a.damageOldSegment(func(content []byte) int { return len(content) / 2 })
	told := fmt.Sprintf("%s is damaged at byte ", damaged)
	for round := range 2 {
		a.Launch()
		a.WaitReady()
		a.put("served", fmt.Sprint(round))
		if round == 0 {
			stream := must(a.watch.Watch(ctx(t)))(t)
			create := &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 4}
			_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
			reason, events := "", 0
			for reason == "" {
				answer := must(stream.Recv())(t)
				events += len(answer.Events)
				reason = answer.CancelReason
			}
			equal(t, "the watch's end", reason, "keepd: the history from this revision on could not be read; "+
				"see the server's log")
			equal(t, "events before it", events > 20 && events < 180, true)
		}
		all := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
		_, err := a.kv.Range(ctx(t), all)
		wantError(t, err, codes.DataLoss, "keepd: the store could not be read; see the server's log")
		readable := 0
		for i := range 200 {
			answer, err := a.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte(fmt.Sprintf("k%03d", i))})
			if err == nil {
				readable += len(answer.Kvs)
			}
		}
		equal(t, "almost all keys are served", readable > 190 && readable < 200, true)
		_, err = a.maintenance.HashKV(ctx(t), &pb.HashKVRequest{})
		equal(t, "hash", status.Code(err), codes.DataLoss)
		equal(t, "compact", a.compact(a.revision(), true), nil)
		must(a.maintenance.Defragment(ctx(t), &pb.DefragmentRequest{}))(t)
		snapshot := must(a.maintenance.Snapshot(ctx(t), &pb.SnapshotRequest{}))(t)
		for err = nil; err == nil; {
			_, err = snapshot.Recv()
		}
		equal(t, "a snapshot fails with the reason: "+err.Error(), strings.Contains(err.Error(), told), true)

		harness.Eventually(t, 20*time.Second, "the damage is told", func() bool {
			return strings.Contains(fmt.Sprint(a.status().Errors), told)
		})
		code, page := a.http("GET", "/readyz?verbose", "")
		equal(t, "ready", code, 200)
		equal(t, "told: "+page, strings.Contains(page, "[!]damaged_file "+told), true)
		_, metrics := a.http("GET", "/metrics", "")
		equal(t, "metric", strings.Contains(metrics, "\nkeepd_store_damaged_places 1\n"), true)
		a.put("served", "still")
		equal(t, "runs", a.Exited(), false)
		a.Terminate(t)
	}
}

// A read of the value that a put is to keep is done before the put enters the log: there it would end
// the member, again at each start.
func TestAPutThatKeepsADamagedValueFails(t *testing.T) {
	t.Parallel()
	if harness.KeepdBin() == "" {
		t.Skip("needs keepd")
	}
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Keepd}))
	a.put("dead", "1")
	a.put("dead", "2")
	a.put("k", strings.Repeat("v", 5000))
	a.damageOldSegment(func(content []byte) int { return bytes.Index(content, []byte("vvvv")) + 1000 })
	a.Launch()
	a.WaitReady()
	keep := &pb.PutRequest{Key: []byte("k"), IgnoreValue: true}
	_, err := a.kv.Put(ctx(t), keep)
	equal(t, "a put that keeps it", status.Code(err), codes.DataLoss)
	_, err = a.kv.Txn(ctx(t), &pb.TxnRequest{
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: keep}}},
	})
	equal(t, "in a transaction", status.Code(err), codes.DataLoss)
	a.put("k", "anew")
	must(a.kv.Put(ctx(t), keep))(t)
}

// Nothing is acknowledged into files that are gone.
func TestADataDirectoryThatIsTakenAway(t *testing.T) {
	t.Parallel()
	if harness.KeepdBin() == "" {
		t.Skip("needs keepd")
	}
	remove := func(parts ...string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, path := range must(filepath.Glob(filepath.Join(append([]string{dir, "member"}, parts...)...)))(t) {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, take := range map[string]func(t *testing.T, dir string){
		"rm -rf":    func(t *testing.T, dir string) { _ = os.RemoveAll(dir) },
		"mv":        func(t *testing.T, dir string) { _ = os.Rename(dir, dir+".away") },
		"log":       remove("wal", "*.wal"),
		"log dir":   remove("wal"),
		"store dir": remove("store"),
		"segments":  remove("store", "seg-*"),
		"manifest":  remove("store", "MANIFEST-*"),
		"keyring":   remove("KEYRING"),
		"member":    remove(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.KeepdSealed}))
			for i := range 50 {
				a.put(fmt.Sprint(i), "v")
			}
			take(t, a.DataDir)
			acknowledged := 0
			for !a.Exited() && acknowledged < 100_000 {
				c, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				_, err := a.kv.Put(c, &pb.PutRequest{Key: []byte("after"), Value: []byte("v")})
				cancel()
				if err != nil {
					break
				}
				acknowledged++
			}
			if strings.HasPrefix(name, "log") || name == "mv" || name == "rm -rf" || name == "member" {
				equal(t, "writes acknowledged after it", acknowledged, 0)
			}
			if code := a.Wait(t, 30*time.Second); code == 0 {
				t.Error("it ended as if all were well")
			}
			text := "removed, moved away or replaced while this member runs"
			equal(t, "the reason is told", strings.Contains(a.Tail(1<<20), text), true)
		})
	}
}
