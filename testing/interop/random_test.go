package interop

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Random requests over a handful of keys, in every combination of options, are answered alike by
// every store: answers, errors and revisions.
func TestRandomRequestsAreAnsweredAlike(t *testing.T) {
	t.Parallel()
	const steps = 4000
	for _, seed := range []uint64{1, 2} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			var stores []*api
			for _, flavor := range harness.Flavors() {
				stores = append(stores, newAPI(t, harness.Start(t, harness.Options{Flavor: flavor})))
			}
			g := &generator{Rand: rand.New(rand.NewPCG(seed, seed))}
			for step := range steps {
				request := g.request()
				want := ""
				for i, a := range stores {
					got := a.ask(request)
					if i == 0 {
						want = got
					} else if got != want {
						t.Fatalf("step %d: %T %v\n%s: %s\n%s: %s", step, request,
							prototext.Format(request), stores[0].Flavor, want, a.Flavor, got)
					}
				}
			}
			for _, a := range stores[1:] {
				equal(t, "hash", a.hashKV(0).Hash, stores[0].hashKV(0).Hash)
			}
		})
	}
}

// ask sends a request; the answer, without what differs between stores, or the error.
func (a *api) ask(request proto.Message) string {
	var answer proto.Message
	var err error
	switch r := request.(type) {
	case streamed:
		kvs, last, err := a.stream(r.RangeRequest)
		if err != nil {
			return err.Error()
		}
		last = proto.CloneOf(last)
		last.Kvs = kvs
		answer = last
	case *pb.RangeRequest:
		answer, err = a.kv.Range(ctx(a.t), r)
	case *pb.PutRequest:
		answer, err = a.kv.Put(ctx(a.t), r)
	case *pb.DeleteRangeRequest:
		answer, err = a.kv.DeleteRange(ctx(a.t), r)
	case *pb.TxnRequest:
		answer, err = a.kv.Txn(ctx(a.t), r)
	case *pb.CompactionRequest:
		answer, err = a.kv.Compact(ctx(a.t), r)
	case *pb.LeaseGrantRequest:
		answer, err = a.lease.LeaseGrant(ctx(a.t), r)
	case *pb.LeaseRevokeRequest:
		answer, err = a.lease.LeaseRevoke(ctx(a.t), r)
	case *pb.LeaseLeasesRequest:
		var leases *pb.LeaseLeasesResponse
		leases, err = a.lease.LeaseLeases(ctx(a.t), r)
		if err == nil {
			// The order is that of the remaining times.
			leases.Leases = []*pb.LeaseStatus{{ID: int64(len(leases.Leases))}}
		}
		answer = leases
	case *pb.HashKVRequest:
		answer, err = a.maintenance.HashKV(ctx(a.t), r)
	}
	if err != nil {
		return err.Error()
	}
	hideIdentity(answer.ProtoReflect())
	text, err := prototext.MarshalOptions{Multiline: false}.Marshal(answer)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(text)
}

// hideIdentity takes identities and terms out of the headers.
func hideIdentity(message protoreflect.Message) {
	header := message.Descriptor().Fields().ByName("header")
	if header == nil || !message.Has(header) {
		return
	}
	fields := message.Mutable(header).Message()
	for _, name := range []protoreflect.Name{"cluster_id", "member_id", "raft_term"} {
		fields.Clear(fields.Descriptor().Fields().ByName(name))
	}
}

// streamed is a range whose answer comes in parts.
type streamed struct{ *pb.RangeRequest }

type generator struct {
	*rand.Rand
	// keeps: puts of this transaction may keep values and leases, and so none of its deletes is
	// without an end: etcd crashes when a put keeps what such a delete has removed.
	keeps bool
}

// one in n.
func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

func (g *generator) key() []byte {
	switch g.IntN(40) {
	case 0:
		return nil
	case 1:
		return []byte{0}
	default:
		return []byte{byte('a' + g.IntN(8))}
	}
}

func (g *generator) end() []byte {
	switch g.IntN(6) {
	case 0:
		return []byte{0}
	case 1, 2:
		return []byte{byte('a' + g.IntN(10))}
	case 3:
		return []byte{byte('a' + g.IntN(8)), 0}
	default:
		return nil
	}
}

func (g *generator) value() []byte { return []byte{byte('0' + g.IntN(4))} }

// number is mostly small, sometimes negative, rarely extreme.
func (g *generator) number(limit int) int64 {
	if g.one(100) {
		return []int64{math.MinInt64, math.MaxInt64, math.MinInt32, math.MaxInt32}[g.IntN(4)]
	}
	switch g.IntN(5) {
	case 0:
		return -int64(g.IntN(3))
	case 1:
		return int64(g.IntN(limit))
	default:
		return 0
	}
}

func (g *generator) lease() int64 {
	if g.one(3) {
		return int64(g.IntN(5)) - 1
	}
	return 0
}

// revision is often a recent one; the stores move on by less than one revision a step.
func (g *generator) revision() int64 { return g.number(2000) }

func (g *generator) get() *pb.RangeRequest {
	r := &pb.RangeRequest{
		Key: g.key(), RangeEnd: g.end(), Limit: g.number(5), Revision: g.revision(),
		Serializable: g.one(4), KeysOnly: g.one(6), CountOnly: g.one(8),
	}
	if g.one(3) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.IntN(5))
	}
	if g.one(60) {
		r.SortTarget = 9
	}
	if r.SortTarget != pb.RangeRequest_KEY && r.SortTarget != pb.RangeRequest_MOD {
		// Ties are left open by etcd.
		r.SortOrder, r.SortTarget = pb.RangeRequest_NONE, pb.RangeRequest_KEY
	}
	if g.one(5) {
		r.MinModRevision, r.MaxModRevision = g.number(2000), g.number(2000)
		r.MinCreateRevision, r.MaxCreateRevision = g.number(2000), g.number(2000)
	}
	return r
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), Lease: g.lease(), PrevKv: g.one(3)}
	if g.one(6) {
		r.IgnoreValue = true
		if !g.one(4) {
			r.Value = nil
		}
	}
	if g.one(6) {
		r.IgnoreLease = true
		if !g.one(4) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) del() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: g.key(), PrevKv: g.one(2)}
	if g.one(3) {
		r.RangeEnd = g.end()
	}
	return r
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Key: g.key(), Target: pb.Compare_CompareTarget(g.IntN(5)),
		Result: pb.Compare_CompareResult(g.IntN(4))}
	if g.one(4) {
		c.RangeEnd = g.end()
	}
	switch g.IntN(8) {
	case 0:
		c.TargetUnion = &pb.Compare_Version{Version: g.number(4)}
	case 1:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.number(2000)}
	case 2:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.number(2000)}
	case 3:
		c.TargetUnion = &pb.Compare_Lease{Lease: g.lease()}
	case 4, 5, 6:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	}
	return c
}

func (g *generator) op(depth int) *pb.RequestOp {
	switch n := g.IntN(20); {
	case n == 0 && depth > 0:
		return &pb.RequestOp{}
	case n < 7:
		return opRange(g.get())
	case n < 13:
		r := g.put()
		r.IgnoreValue, r.IgnoreLease = r.IgnoreValue && g.keeps, r.IgnoreLease && g.keeps
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
	case n < 17 || depth > 2:
		r := g.del()
		if g.keeps && string(r.RangeEnd) == "\x00" {
			r.RangeEnd = nil
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	default:
		return opTxn(g.txn(depth + 1))
	}
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	for range g.IntN(4) {
		r.Success = append(r.Success, g.op(depth))
	}
	for range g.IntN(3) {
		r.Failure = append(r.Failure, g.op(depth))
	}
	return r
}

func (g *generator) request() proto.Message {
	switch n := g.IntN(100); {
	case n < 20:
		return g.get()
	case n < 25:
		return streamed{g.get()}
	case n < 50:
		return g.put()
	case n < 58:
		return g.del()
	case n < 90:
		g.keeps = g.one(2)
		return g.txn(0)
	case n < 92:
		// Not 0: etcd then keeps a hash for revision 0 and answers every HashKV(0) with it.
		return &pb.CompactionRequest{Revision: max(1, g.revision()/2), Physical: g.one(2)}
	case n < 95:
		return &pb.LeaseGrantRequest{ID: 1 + int64(g.IntN(3)), TTL: 1000 + g.number(3)}
	case n < 97:
		return &pb.LeaseRevokeRequest{ID: g.lease()}
	case n < 98:
		return &pb.LeaseLeasesRequest{}
	default:
		return &pb.HashKVRequest{Revision: g.revision()}
	}
}
