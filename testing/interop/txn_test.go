package interop

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

const (
	errTooManyOps = "etcdserver: too many operations in txn request"
	errDuplicate  = "etcdserver: duplicate key given in txn request"
)

func opPut(key, value string) *pb.RequestOp {
	r := &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func opDel(key, end string) *pb.RequestOp {
	r := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func opGet(key, end string) *pb.RequestOp {
	return opRange(&pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opTxn(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

func ops(list ...*pb.RequestOp) []*pb.RequestOp { return list }

func compare(key string, target pb.Compare_CompareTarget, result pb.Compare_CompareResult, operand any) *pb.Compare {
	c := &pb.Compare{Key: []byte(key), Target: target, Result: result}
	switch v := operand.(type) {
	case string:
		c.TargetUnion = &pb.Compare_Value{Value: []byte(v)}
	case int:
		switch target {
		case pb.Compare_VERSION:
			c.TargetUnion = &pb.Compare_Version{Version: int64(v)}
		case pb.Compare_CREATE:
			c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: int64(v)}
		case pb.Compare_MOD:
			c.TargetUnion = &pb.Compare_ModRevision{ModRevision: int64(v)}
		case pb.Compare_LEASE:
			c.TargetUnion = &pb.Compare_Lease{Lease: int64(v)}
		}
	}
	return c
}

func TestTxnCompares(t *testing.T) {
	const (
		eq, gt, lt, ne       = pb.Compare_EQUAL, pb.Compare_GREATER, pb.Compare_LESS, pb.Compare_NOT_EQUAL
		version, create, mod = pb.Compare_VERSION, pb.Compare_CREATE, pb.Compare_MOD
		value, lease         = pb.Compare_VALUE, pb.Compare_LEASE
	)
	onEach(t, func(t *testing.T, a *api) {
		must(a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{TTL: 100, ID: 5}))(t)
		a.put("a", "m")                                                                           // 2
		a.put("b", "m")                                                                           // 3
		must(a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("b"), Value: []byte("n"), Lease: 5}))(t) // 4
		withEnd := func(c *pb.Compare, end string) *pb.Compare {
			c.RangeEnd = []byte(end)
			return c
		}
		for i, c := range []struct {
			compare *pb.Compare
			want    bool
		}{
			{compare("a", version, eq, 1), true},
			{compare("b", version, eq, 1), false},
			{compare("b", version, gt, 1), true},
			{compare("b", version, lt, 3), true},
			{compare("b", version, ne, 2), false},
			{compare("b", create, eq, 3), true},
			{compare("b", mod, eq, 4), true},
			{compare("b", mod, lt, 4), false},
			{compare("b", lease, eq, 5), true},
			{compare("a", lease, eq, 0), true},
			{compare("a", value, eq, "m"), true},
			{compare("a", value, ne, "m"), false},
			{compare("a", value, gt, "l"), true},
			{compare("a", value, lt, "mm"), true},
			// A missing key compares as zeros, but never by its value.
			{compare("x", version, eq, 0), true},
			{compare("x", create, eq, 0), true},
			{compare("x", mod, lt, 1), true},
			{compare("x", value, eq, ""), false},
			{compare("x", value, ne, "m"), false},
			// A missing or foreign operand is zero.
			{compare("x", mod, eq, nil), true},
			{compare("a", mod, gt, nil), true},
			{compare("a", value, gt, nil), true},
			{&pb.Compare{Key: []byte("x"), Target: mod, TargetUnion: &pb.Compare_Version{Version: 9}}, true},
			// A range must hold for every key.
			{withEnd(compare("a", mod, gt, 1), "z"), true},
			{withEnd(compare("a", value, eq, "m"), "z"), false},
			{withEnd(compare("a", version, gt, 0), "\x00"), true},
			{withEnd(compare("m", version, eq, 0), "z"), true},
			{withEnd(compare("m", value, ne, "q"), "z"), false},
			{withEnd(compare("z", version, eq, 0), "a"), true},
			// Unknown numbers are not refused.
			{&pb.Compare{Key: []byte("a"), Target: 9, Result: eq}, true},
			{&pb.Compare{Key: []byte("a"), Target: version, Result: 9}, true},
		} {
			got := a.txn(&pb.TxnRequest{Compare: []*pb.Compare{c.compare}, Success: ops(opGet("a", ""))})
			equal(t, fmt.Sprintf("compare %d: %v", i, c.compare), got.Succeeded, c.want)
		}
		both := []*pb.Compare{compare("a", version, eq, 1), compare("a", version, eq, 2)}
		equal(t, "all must hold", a.txn(&pb.TxnRequest{Compare: both}).Succeeded, false)
		none := a.txn(&pb.TxnRequest{})
		equal(t, "no compare holds", none.Succeeded, true)
		equal(t, "no revision", none.Header.Revision, 4)
		_, err := a.kv.Txn(ctx(t), &pb.TxnRequest{Compare: []*pb.Compare{{Target: version}}})
		wantError(t, err, codes.InvalidArgument, errEmptyKey)
	})
}

func TestTxnAsKubernetesWrites(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		mod := func(revision int) []*pb.Compare {
			return []*pb.Compare{compare("k", pb.Compare_MOD, pb.Compare_EQUAL, revision)}
		}
		create := a.txn(&pb.TxnRequest{Compare: mod(0), Success: ops(opPut("k", "1"))})
		equal(t, "created", create.Succeeded, true)
		equal(t, "revision", create.Header.Revision, 2)
		again := a.txn(&pb.TxnRequest{Compare: mod(0), Success: ops(opPut("k", "1"))})
		equal(t, "exists", again.Succeeded, false)
		equal(t, "no responses", len(again.Responses), 0)
		equal(t, "a failed compare makes no revision", again.Header.Revision, 2)
		stale := a.txn(&pb.TxnRequest{Compare: mod(1), Success: ops(opPut("k", "2")), Failure: ops(opGet("k", ""))})
		equal(t, "stale", stale.Succeeded, false)
		equal(t, "current state", string(stale.Responses[0].GetResponseRange().Kvs[0].Value), "1")
		update := a.txn(&pb.TxnRequest{Compare: mod(2), Success: ops(opPut("k", "2")), Failure: ops(opGet("k", ""))})
		equal(t, "update revision", update.Header.Revision, 3)
		equal(t, "update answer", update.Responses[0].GetResponsePut().Header.Revision, 3)
		remove := a.txn(&pb.TxnRequest{Compare: mod(3), Success: ops(opDel("k", "")), Failure: ops(opGet("k", ""))})
		equal(t, "delete revision", remove.Header.Revision, 4)
		equal(t, "deleted", remove.Responses[0].GetResponseDeleteRange().Deleted, 1)
		gone := a.txn(&pb.TxnRequest{Compare: mod(3), Success: ops(opDel("k", "")), Failure: ops(opGet("k", ""))})
		equal(t, "gone", gone.Succeeded, false)
		equal(t, "empty answer", len(gone.Responses[0].GetResponseRange().Kvs), 0)
	})
}

func TestTxnOperationsSeeEarlierOnes(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("old", "1") // 2
		absent := []*pb.Compare{compare("t1", pb.Compare_VERSION, pb.Compare_EQUAL, 0)}
		got := a.txn(&pb.TxnRequest{Success: ops(
			opGet("old", ""),
			opPut("t1", "v"),
			opGet("t", "u"),
			opPut("t2", "v"),
			opDel("none", ""),
			// Compares are evaluated before anything runs, also nested ones.
			opTxn(&pb.TxnRequest{Compare: absent, Success: ops(opGet("t", "u"))}),
		)})
		equal(t, "revision", got.Header.Revision, 3)
		r := got.Responses
		equal(t, "range before the first write", r[0].GetResponseRange().Header.Revision, 2)
		equal(t, "put", r[1].GetResponsePut().Header.Revision, 3)
		equal(t, "sees the write", keys(r[2].GetResponseRange().Kvs), "t1")
		equal(t, "range after a write", r[2].GetResponseRange().Header.Revision, 3)
		equal(t, "delete of nothing after a write", r[4].GetResponseDeleteRange().Header.Revision, 3)
		nested := r[5].GetResponseTxn()
		equal(t, "nested branch by the state before", nested.Succeeded, true)
		equal(t, "nested header is there", nested.Header != nil, true)
		equal(t, "and empty", nested.Header.GetRevision(), 0)
		equal(t, "nested sees writes", keys(nested.Responses[0].GetResponseRange().Kvs), "t1 t2")
		for _, inner := range []*pb.ResponseHeader{r[0].GetResponseRange().Header, r[1].GetResponsePut().Header} {
			equal(t, "inner cluster id", inner.ClusterId, 0)
			equal(t, "inner member id", inner.MemberId, 0)
			equal(t, "inner term", inner.RaftTerm, 0)
		}
		kvs := a.get(&pb.RangeRequest{Key: []byte("t"), RangeEnd: []byte("u")}).Kvs
		equal(t, "one revision for all", kvs[0].ModRevision == 3 && kvs[1].ModRevision == 3, true)

		deleted := a.txn(&pb.TxnRequest{Success: ops(opDel("t1", "\x00"), opPut("t1", "again"))})
		equal(t, "delete to the end, then put", deleted.Responses[0].GetResponseDeleteRange().Deleted, 2)
		equal(t, "a new generation", a.one("t1").Kvs[0].Version, 1)
		twice := a.txn(&pb.TxnRequest{Success: ops(opDel("t1", ""), opDel("t1", ""))})
		equal(t, "first", twice.Responses[0].GetResponseDeleteRange().Deleted, 1)
		equal(t, "second", twice.Responses[1].GetResponseDeleteRange().Deleted, 0)
	})
}

func TestTxnDuplicateKeys(t *testing.T) {
	nest := func(list ...*pb.RequestOp) *pb.RequestOp { return opTxn(&pb.TxnRequest{Success: list}) }
	onEach(t, func(t *testing.T, a *api) {
		for _, c := range []struct {
			name    string
			success []*pb.RequestOp
			ok      bool
		}{
			{"put put", ops(opPut("a", ""), opPut("a", "")), false},
			{"put del", ops(opPut("a", ""), opDel("a", "")), false},
			{"del put", ops(opDel("a", ""), opPut("a", "")), false},
			{"put in a deleted range", ops(opDel("a", "c"), opPut("b", "")), false},
			{"put behind a deleted range", ops(opDel("a", "b"), opPut("b", "")), true},
			{"del del", ops(opDel("a", "c"), opDel("b", "d")), true},
			{"del to the end is not seen", ops(opDel("a", "\x00"), opPut("b", "")), true},
			{"get put", ops(opGet("a", ""), opPut("a", "")), true},
			{"nested put, put", ops(nest(opPut("a", "")), opPut("a", "")), false},
			{"put, nested put", ops(opPut("a", ""), nest(opPut("a", ""))), false},
			{"nested put, nested put", ops(nest(opPut("a", "")), nest(opPut("a", ""))), false},
			{"nested put, nested del", ops(nest(opPut("a", "")), nest(opDel("a", ""))), true},
			{"nested del, nested put", ops(nest(opDel("a", "")), nest(opPut("a", ""))), false},
			{"both branches put", ops(opTxn(&pb.TxnRequest{
				Success: ops(opPut("a", "")), Failure: ops(opPut("a", "")),
			})), true},
		} {
			_, err := a.kv.Txn(ctx(t), &pb.TxnRequest{Success: c.success})
			if c.ok {
				equal(t, c.name, err, nil)
			} else {
				wantError(t, err, codes.InvalidArgument, errDuplicate)
			}
			_, err = a.kv.Txn(ctx(t), &pb.TxnRequest{
				Compare: []*pb.Compare{compare("x", pb.Compare_VERSION, pb.Compare_EQUAL, 0)},
				Failure: c.success,
			})
			if !c.ok {
				wantError(t, err, codes.InvalidArgument, errDuplicate)
			}
		}
		apart := &pb.TxnRequest{Success: ops(opPut("a", "")), Failure: ops(opPut("a", ""), opPut("b", ""))}
		must(a.kv.Txn(ctx(t), apart))(t)
	})
}

func TestTxnLimitsAndErrors(t *testing.T) {
	puts := func(count int) []*pb.RequestOp {
		var list []*pb.RequestOp
		for i := range count {
			list = append(list, opPut(fmt.Sprintf("k%03d", i), "v"))
		}
		return list
	}
	onEach(t, func(t *testing.T, a *api) {
		txn := func(success []*pb.RequestOp) error {
			_, err := a.kv.Txn(ctx(t), &pb.TxnRequest{Success: success})
			return err
		}
		equal(t, "128 operations", txn(puts(128)), nil)
		wantError(t, txn(puts(129)), codes.InvalidArgument, errTooManyOps)
		one := opTxn(&pb.TxnRequest{Success: ops(opPut("n1", ""))})
		two := opTxn(&pb.TxnRequest{Success: ops(opPut("n1", ""), opPut("n2", ""))})
		wantError(t, txn(append(puts(127), one)), codes.InvalidArgument, errTooManyOps)
		equal(t, "a nested budget that fits", txn(append(puts(125), two)), nil)
		wantError(t, txn(append(puts(126), two)), codes.InvalidArgument, errTooManyOps)

		before := a.revision()
		wantError(t, txn(ops(&pb.RequestOp{})), codes.InvalidArgument, errKeyNotFound)
		wantError(t, txn(ops(opPut("", "v"))), codes.InvalidArgument, errEmptyKey)
		wantError(t, txn(ops(opGet("", "z"))), codes.InvalidArgument, errEmptyKey)
		lease := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte("l"), Lease: 4711}}}
		wantError(t, txn(ops(opPut("ok", "v"), lease)), codes.NotFound, errLeaseNotFound)
		keep := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte("new"), IgnoreValue: true}}}
		nested := opTxn(&pb.TxnRequest{Success: ops(opPut("new", "v"))})
		wantError(t, txn(ops(nested, keep)), codes.InvalidArgument, errDuplicate)
		wantError(t, txn(ops(keep)), codes.InvalidArgument, errKeyNotFound)
		future := opRange(&pb.RangeRequest{Key: []byte("a"), Revision: before + 1})
		wantError(t, txn(ops(opPut("ok", "v"), future)), codes.OutOfRange, errFuture)
		equal(t, "nothing was written", a.revision(), before)

		// The branch that is not taken is not checked for leases and revisions.
		taken := a.txn(&pb.TxnRequest{Success: ops(opPut("ok", "v")), Failure: ops(lease, future)})
		equal(t, "taken", taken.Succeeded, true)

		negative := opRange(&pb.RangeRequest{Key: []byte("ok"), Revision: -1})
		equal(t, "-1 before a compaction", txn(ops(opPut("w", ""), negative)), nil)
		must(a.kv.Compact(ctx(t), &pb.CompactionRequest{Revision: before}))(t)
		wantError(t, txn(ops(opPut("w", ""), negative)), codes.OutOfRange, errCompacted)
	})
}

func TestTxnThatOnlyReadsMakesNoRevision(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("a", "1")
		read := a.txn(&pb.TxnRequest{Success: ops(opGet("a", ""), opGet("b", ""))})
		equal(t, "revision", read.Header.Revision, 2)
		nested := a.txn(&pb.TxnRequest{Success: ops(opTxn(&pb.TxnRequest{Success: ops(opGet("a", ""))}))})
		equal(t, "nested", nested.Header.Revision, 2)
		equal(t, "still", a.revision(), 2)
		previous := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true}}}
		put := a.txn(&pb.TxnRequest{Success: ops(previous)})
		equal(t, "previous", string(put.Responses[0].GetResponsePut().PrevKv.Value), "1")
		removed := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), PrevKv: true}}}
		del := a.txn(&pb.TxnRequest{Success: ops(removed)})
		equal(t, "removed", string(del.Responses[0].GetResponseDeleteRange().PrevKvs[0].Value), "2")
	})
}

// Values are compared before a transaction enters the log and are guarded there: whoever loses a
// race is asked again by the server, not by the client, and no update is lost.
func TestTxnContestedValueCompares(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		const clients, each = 8, 25
		a.put("n", "0")
		increment := func() error {
			for {
				got, err := a.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("n")})
				if err != nil {
					return err
				}
				old := string(got.Kvs[0].Value)
				number, err := strconv.Atoi(old)
				if err != nil {
					return err
				}
				done, err := a.kv.Txn(ctx(t), &pb.TxnRequest{
					Compare: []*pb.Compare{compare("n", pb.Compare_VALUE, pb.Compare_EQUAL, old)},
					Success: ops(opPut("n", strconv.Itoa(number+1)))})
				if err != nil || done.Succeeded {
					return err
				}
			}
		}
		failed := make(chan error, clients)
		for range clients {
			go func() {
				var err error
				for i := 0; i < each && err == nil; i++ {
					err = increment()
				}
				failed <- err
			}()
		}
		for range clients {
			equal(t, "no increment fails", <-failed, nil)
		}
		equal(t, "none is lost", string(a.one("n").Kvs[0].Value), strconv.Itoa(clients*each))
	})
}

// Any number of keys may be compared at once, and later changes among them are seen.
func TestTxnComparesTheValuesOfManyKeys(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		const count = 10_000
		long := strings.Repeat("k", 180)
		for first := 0; first < count; first += 125 {
			var list []*pb.RequestOp
			for i := range 125 {
				list = append(list, opPut(fmt.Sprintf("%s%05d", long, first+i), "v"))
			}
			a.txn(&pb.TxnRequest{Success: list})
		}
		take := func(operand string) *pb.TxnResponse {
			all := compare(long, pb.Compare_VALUE, pb.Compare_EQUAL, operand)
			all.RangeEnd = []byte("l")
			return a.txn(&pb.TxnRequest{Compare: []*pb.Compare{all},
				Success: ops(opPut("taken", operand)), Failure: ops(opPut("refused", operand))})
		}
		equal(t, "all are v", take("v").Succeeded, true)
		equal(t, "none is w", take("w").Succeeded, false)
		a.put(long+"05000", "w")
		equal(t, "one is not v", take("v").Succeeded, false)
		equal(t, "written once", a.one("taken").Kvs[0].Version, 1)
		equal(t, "and twice", a.one("refused").Kvs[0].Version, 2)
	})
}

// Writers that never stop do not keep a comparison of values from being decided.
func TestTxnComparesValuesInAStormOfWrites(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		const writers, rounds = 32, 20
		a.put("k", "same")
		c, stop := context.WithCancel(ctx(t))
		var writing sync.WaitGroup
		for range writers {
			writing.Go(func() {
				for c.Err() == nil {
					_, _ = a.kv.Put(c, &pb.PutRequest{Key: []byte("k"), Value: []byte("same")})
				}
			})
		}
		for i := range rounds {
			same := compare("k", pb.Compare_VALUE, pb.Compare_EQUAL, "same")
			begin := time.Now()
			got := a.txn(&pb.TxnRequest{Compare: []*pb.Compare{same},
				Success: ops(opPut("count", strconv.Itoa(i)))})
			equal(t, "the value is always the same", got.Succeeded, true)
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("round %d took %s", i, took)
			}
		}
		stop()
		writing.Wait()
		equal(t, "each round once", a.one("count").Kvs[0].Version, rounds)
	})
}

func TestTxnNesting(t *testing.T) {
	nested := func(depth int, innermost ...*pb.RequestOp) *pb.TxnRequest {
		txn := &pb.TxnRequest{Success: innermost}
		for range depth - 1 {
			txn = &pb.TxnRequest{Success: ops(opTxn(txn))}
		}
		return txn
	}
	onEach(t, func(t *testing.T, a *api) {
		for _, depth := range []int{2, 50, 51, 100, 128} {
			got := a.txn(nested(depth, opPut("deep", strconv.Itoa(depth))))
			for range depth - 1 {
				got = got.Responses[0].GetResponseTxn()
			}
			equal(t, "the innermost answer", got.Responses[0].GetResponsePut() != nil, true)
			equal(t, "the innermost write", string(a.one("deep").Kvs[0].Value), strconv.Itoa(depth))
		}
		equal(t, "the innermost may be empty", a.txn(nested(129)).Succeeded, true)
		before := a.revision()
		for _, depth := range []int{129, 130, 131, 200, 4000} {
			_, err := a.kv.Txn(ctx(t), nested(depth, opPut("deep", "")))
			wantError(t, err, codes.InvalidArgument, errTooManyOps)
		}
		// Go gives up at ten thousand messages; either way it is an error and nothing else.
		for _, depth := range []int{6000, 100_000} {
			_, err := a.kv.Txn(ctx(t), nested(depth))
			equal(t, "far too deep", err != nil, true)
		}
		equal(t, "nothing was written", a.revision(), before)
		a.Restart()
		equal(t, "the log can be read again", string(a.one("deep").Kvs[0].Value), "128")
	})
}

// A larger budget of operations allows etcd deeper nesting and keepd no deeper than it reads.
func TestTxnNestingWithALargeBudget(t *testing.T) {
	onEachWith(t, []string{"--max-txn-ops=3000"}, func(t *testing.T, a *api) {
		txn := &pb.TxnRequest{Success: ops(opPut("deep", ""))}
		for range 999 {
			txn = &pb.TxnRequest{Success: ops(opTxn(txn))}
		}
		_, err := a.kv.Txn(ctx(t), txn)
		if a.Flavor.IsKeepd() {
			wantError(t, err, codes.InvalidArgument, errTooManyOps)
		} else {
			equal(t, "a thousand levels", err, nil)
		}
	})
}
