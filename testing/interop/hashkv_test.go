package interop

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Hashes around compactions: the compacted revision itself is answered from what the compaction left.
func TestHashKVAroundCompactions(t *testing.T) {
	t.Parallel()
	answers := map[harness.Flavor][]string{}
	for _, flavor := range harness.Flavors() {
		a := newAPI(t, harness.Start(t, harness.Options{Flavor: flavor}))
		note := func(what string) {
			for revision := int64(-1); revision <= a.revision()+1; revision++ {
				r, err := a.maintenance.HashKV(ctx(t), &pb.HashKVRequest{Revision: revision})
				line := fmt.Sprintf("%s: HashKV(%d): %v", what, revision, err)
				if err == nil {
					line = fmt.Sprintf("%s: HashKV(%d): %d compacted %d up to %d", what, revision, r.Hash,
						r.CompactRevision, r.HashRevision)
				}
				answers[flavor] = append(answers[flavor], line)
			}
		}
		round := func(value string) {
			for _, key := range []string{"a", "b", "c"} {
				a.put(key, value)
			}
			a.del("b")
			a.txn(&pb.TxnRequest{Success: ops(opPut("d", value), opDel("a", ""), opPut("e", value))})
		}
		round("1")
		note("nothing compacted")
		tombstone := a.del("c").Header.Revision
		a.put("c", "2")
		for _, revision := range []int64{4, tombstone, tombstone + 1} {
			err := a.compact(revision, true)
			note(fmt.Sprintf("compacted at %d (%v)", revision, err))
		}
		note(fmt.Sprintf("compacted again (%v)", a.compact(tombstone, true)))
		round("3")
		end := a.revision()
		note(fmt.Sprintf("compacted at the end (%v)", a.compact(end, true)))
		a.del("d")
		last := a.del("e").Header.Revision
		note(fmt.Sprintf("a tombstone is last (%v)", a.compact(last, true)))
		a.Restart()
		note("restarted")
		for _, key := range []string{"a", "b", "c"} {
			a.del(key)
		}
		note(fmt.Sprintf("all deleted (%v)", a.compact(a.revision(), true)))
		a.Kill()
		a.Launch()
		a.WaitReady()
		note("killed")
	}
	for flavor, lines := range answers {
		for i, line := range lines {
			equal(t, string(flavor), line, answers[harness.Etcd][i])
		}
	}
}
