package interop

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
)

const (
	errEmptyKey      = "etcdserver: key is not provided"
	errKeyNotFound   = "etcdserver: key not found"
	errValueProvided = "etcdserver: value is provided"
	errLeaseProvided = "etcdserver: lease is provided"
	errLeaseNotFound = "etcdserver: requested lease not found"
	errSort          = "etcdserver: invalid sort option"
	errCompacted     = "etcdserver: mvcc: required revision has been compacted"
	errFuture        = "etcdserver: mvcc: required revision is a future revision"
	errTooLarge      = "etcdserver: request is too large"
)

func keys(kvs []*mvccpb.KeyValue) string {
	var names []string
	for _, kv := range kvs {
		names = append(names, string(kv.Key))
	}
	return strings.Join(names, " ")
}

func TestRangeForms(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		for _, key := range []string{"a", "ab", "b", "b\xff", "c"} {
			a.put(key, key)
		}
		for _, c := range []struct{ key, end, want string }{
			{"a", "", "a"},
			{"x", "", ""},
			{"a", "c", "a ab b b\xff"},
			{"a", "b", "a ab"},
			{"b", "c", "b b\xff"},
			{"b", "\x00", "b b\xff c"},
			{"\x00", "\x00", "a ab b b\xff c"},
			{"b", "a", ""},
			{"b", "b", ""},
			{"b\xff", "c", "b\xff"},
		} {
			got := a.get(&pb.RangeRequest{Key: []byte(c.key), RangeEnd: []byte(c.end)})
			equal(t, fmt.Sprintf("range %q %q", c.key, c.end), keys(got.Kvs), c.want)
			equal(t, "count", got.Count, int64(len(got.Kvs)))
			equal(t, "more", got.More, false)
		}
		for _, end := range []string{"", "\x00", "b"} {
			_, err := a.kv.Range(ctx(t), &pb.RangeRequest{RangeEnd: []byte(end)})
			wantError(t, err, codes.InvalidArgument, errEmptyKey)
		}
	})
}

func TestRangeSortLimitAndFilters(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		// key: create, mod, version, value
		a.put("a", "3") // 2
		a.put("b", "2") // 3
		a.put("c", "1") // 4
		a.put("a", "5") // 5
		a.put("a", "4") // 6
		a.put("b", "9") // 7
		all := func(change func(r *pb.RangeRequest)) *pb.RangeRequest {
			r := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z")}
			change(r)
			return r
		}
		for _, c := range []struct {
			name string
			r    *pb.RangeRequest
			keys string
			more bool
		}{
			{"limit 1", all(func(r *pb.RangeRequest) { r.Limit = 1 }), "a", true},
			{"limit 2", all(func(r *pb.RangeRequest) { r.Limit = 2 }), "a b", true},
			{"limit 3", all(func(r *pb.RangeRequest) { r.Limit = 3 }), "a b c", false},
			{"limit -1", all(func(r *pb.RangeRequest) { r.Limit = -1 }), "a b c", false},
			{"key descending", all(func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_DESCEND }),
				"c b a", false},
			{"key descending, limit", all(func(r *pb.RangeRequest) {
				r.SortOrder = pb.RangeRequest_DESCEND
				r.Limit = 2
			}), "c b", true},
			{"version ascending", all(func(r *pb.RangeRequest) {
				r.SortOrder, r.SortTarget = pb.RangeRequest_ASCEND, pb.RangeRequest_VERSION
			}), "c b a", false},
			{"create descending", all(func(r *pb.RangeRequest) {
				r.SortOrder, r.SortTarget = pb.RangeRequest_DESCEND, pb.RangeRequest_CREATE
			}), "c b a", false},
			{"mod ascending, limit", all(func(r *pb.RangeRequest) {
				r.SortOrder, r.SortTarget, r.Limit = pb.RangeRequest_ASCEND, pb.RangeRequest_MOD, 2
			}), "c a", true},
			{"value ascending", all(func(r *pb.RangeRequest) {
				r.SortOrder, r.SortTarget = pb.RangeRequest_ASCEND, pb.RangeRequest_VALUE
			}), "c a b", false},
			{"value, no order, limit before the sort", all(func(r *pb.RangeRequest) {
				r.SortTarget, r.Limit = pb.RangeRequest_VALUE, 1
			}), "a", true},
			{"min mod", all(func(r *pb.RangeRequest) { r.MinModRevision = 6 }), "a b", false},
			{"max mod", all(func(r *pb.RangeRequest) { r.MaxModRevision = 6 }), "a c", false},
			{"min create", all(func(r *pb.RangeRequest) { r.MinCreateRevision = 3 }), "b c", false},
			{"max create", all(func(r *pb.RangeRequest) { r.MaxCreateRevision = 3 }), "a b", false},
			{"filter and limit", all(func(r *pb.RangeRequest) {
				r.MinModRevision = 6
				r.Limit = 1
			}), "a", true},
			{"filter leaves none", all(func(r *pb.RangeRequest) { r.MinModRevision = 99 }), "", false},
		} {
			got := a.get(c.r)
			equal(t, c.name+": keys", keys(got.Kvs), c.keys)
			equal(t, c.name+": more", got.More, c.more)
			equal(t, c.name+": count", got.Count, 3)
		}
		for _, r := range []*pb.RangeRequest{
			{Key: []byte("a"), SortOrder: 9}, {Key: []byte("a"), SortTarget: 9},
		} {
			_, err := a.kv.Range(ctx(t), r)
			wantError(t, err, codes.InvalidArgument, errSort)
		}
	})
}

func TestRangeKeysOnlyAndCountOnly(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("a", "one")
		a.put("a", "two")
		a.put("b", "three")
		got := a.get(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), KeysOnly: true})
		equal(t, "keys", keys(got.Kvs), "a b")
		first := got.Kvs[0]
		equal(t, "create", first.CreateRevision, 2)
		equal(t, "mod", first.ModRevision, 3)
		equal(t, "version", first.Version, 2)
		for _, kv := range got.Kvs {
			equal(t, "value", string(kv.Value), "")
		}
		got = a.get(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), KeysOnly: true,
			SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_ASCEND})
		equal(t, "sorted by value", keys(got.Kvs), "b a")
		equal(t, "value", string(got.Kvs[0].Value), "")
		got = a.get(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), CountOnly: true, Limit: 1})
		equal(t, "count", got.Count, 2)
		equal(t, "more", got.More, false)
		equal(t, "kvs", len(got.Kvs), 0)
	})
}

func TestRangeAtRevisions(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		equal(t, "first revision", a.revision(), 1)
		a.put("a", "1") // 2
		a.put("a", "2") // 3
		a.del("a")      // 4
		a.put("a", "3") // 5
		for revision, want := range map[int64]string{2: "1", 3: "2", 5: "3", 0: "3", -5: "3"} {
			got := a.get(&pb.RangeRequest{Key: []byte("a"), Revision: revision})
			equal(t, fmt.Sprintf("value at %d", revision), string(got.Kvs[0].Value), want)
			equal(t, "header", got.Header.Revision, 5)
		}
		equal(t, "deleted at 4", a.get(&pb.RangeRequest{Key: []byte("a"), Revision: 4}).Count, 0)
		equal(t, "before the first", a.get(&pb.RangeRequest{Key: []byte("a"), Revision: 1}).Count, 0)
		kv := a.one("a").Kvs[0]
		equal(t, "create begins a new generation", kv.CreateRevision, 5)
		equal(t, "version begins anew", kv.Version, 1)
		_, err := a.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("a"), Revision: 6})
		wantError(t, err, codes.OutOfRange, errFuture)
		serializable := a.get(&pb.RangeRequest{Key: []byte("a"), Serializable: true})
		equal(t, "serializable", string(serializable.Kvs[0].Value), "3")
	})
}

func TestPutOptions(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		put := func(r *pb.PutRequest) (*pb.PutResponse, error) { return a.kv.Put(ctx(t), r) }
		first := must(put(&pb.PutRequest{Key: []byte("k"), Value: []byte("1"), PrevKv: true}))(t)
		equal(t, "no previous", first.PrevKv == nil, true)
		equal(t, "revision", first.Header.Revision, 2)
		second := must(put(&pb.PutRequest{Key: []byte("k"), Value: []byte("1"), PrevKv: true}))(t)
		equal(t, "previous", string(second.PrevKv.Value), "1")
		equal(t, "the same content is a new revision", second.Header.Revision, 3)
		granted := must(a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{TTL: 100, ID: 77}))(t)
		equal(t, "lease id", granted.ID, 77)
		must(put(&pb.PutRequest{Key: []byte("k"), IgnoreValue: true, Lease: 77}))(t)
		kv := a.one("k").Kvs[0]
		equal(t, "kept value", string(kv.Value), "1")
		equal(t, "lease", kv.Lease, 77)
		equal(t, "version", kv.Version, 3)
		must(put(&pb.PutRequest{Key: []byte("k"), Value: []byte("2"), IgnoreLease: true}))(t)
		equal(t, "kept lease", a.one("k").Kvs[0].Lease, 77)
		must(put(&pb.PutRequest{Key: []byte("k"), Value: []byte("3")}))(t)
		equal(t, "a plain put detaches", a.one("k").Kvs[0].Lease, 0)
		before := a.revision()
		for _, c := range []struct {
			r    *pb.PutRequest
			code codes.Code
			text string
		}{
			{&pb.PutRequest{Value: []byte("v")}, codes.InvalidArgument, errEmptyKey},
			{&pb.PutRequest{Key: []byte("k"), Value: []byte("v"), IgnoreValue: true},
				codes.InvalidArgument, errValueProvided},
			{&pb.PutRequest{Key: []byte("k"), Lease: 77, IgnoreLease: true},
				codes.InvalidArgument, errLeaseProvided},
			{&pb.PutRequest{Key: []byte("x"), IgnoreValue: true}, codes.InvalidArgument, errKeyNotFound},
			{&pb.PutRequest{Key: []byte("x"), IgnoreLease: true}, codes.InvalidArgument, errKeyNotFound},
			{&pb.PutRequest{Key: []byte("x"), Lease: 12345}, codes.NotFound, errLeaseNotFound},
		} {
			_, err := put(c.r)
			wantError(t, err, c.code, c.text)
		}
		equal(t, "an error makes no revision", a.revision(), before)
		empty := a.put("empty", "")
		equal(t, "an empty value is a value", a.one("empty").Count, 1)
		equal(t, "member", empty.Header.MemberId != 0, true)
		equal(t, "cluster", empty.Header.ClusterId != 0, true)
		equal(t, "term", empty.Header.RaftTerm != 0, true)
	})
}

func TestDeleteRange(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		for _, key := range []string{"a", "b", "c", "d"} {
			a.put(key, "v"+key)
		}
		none := a.del("x")
		equal(t, "deleted nothing", none.Deleted, 0)
		equal(t, "no revision", none.Header.Revision, 5)
		r := &pb.DeleteRangeRequest{Key: []byte("b"), RangeEnd: []byte("d"), PrevKv: true}
		some := must(a.kv.DeleteRange(ctx(t), r))(t)
		equal(t, "deleted", some.Deleted, 2)
		equal(t, "one revision", some.Header.Revision, 6)
		equal(t, "previous", keys(some.PrevKvs), "b c")
		equal(t, "previous value", string(some.PrevKvs[1].Value), "vc")
		inverted := &pb.DeleteRangeRequest{Key: []byte("d"), RangeEnd: []byte("a")}
		equal(t, "inverted", must(a.kv.DeleteRange(ctx(t), inverted))(t).Deleted, 0)
		_, err := a.kv.DeleteRange(ctx(t), &pb.DeleteRangeRequest{RangeEnd: []byte("\x00")})
		wantError(t, err, codes.InvalidArgument, errEmptyKey)
		rest := &pb.DeleteRangeRequest{Key: []byte("\x00"), RangeEnd: []byte("\x00")}
		equal(t, "all", must(a.kv.DeleteRange(ctx(t), rest))(t).Deleted, 2)
	})
}

func TestRequestSizes(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		const limit = 1572864
		_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("big"), Value: make([]byte, limit)})
		wantError(t, err, codes.InvalidArgument, errTooLarge)
		fits := bytes.Repeat([]byte("x"), limit-60)
		must(a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("big"), Value: fits}))(t)
		equal(t, "comes back whole", bytes.Equal(a.one("big").Kvs[0].Value, fits), true)
		_, err = a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("big"), Value: make([]byte, 2*limit)})
		if err == nil || !strings.Contains(err.Error(), "received message larger than max") {
			t.Errorf("beyond the receive limit: %v", err)
		}
	})
}

// A limit beyond what keepd's log takes in one piece: what fits goes through, what does not is
// refused like anything too large.
func TestVeryLargeRequests(t *testing.T) {
	onEachWith(t, []string{"--max-request-bytes=104857600"}, func(t *testing.T, a *api) {
		value := bytes.Repeat([]byte("x"), 70<<20)
		put := func(size int) error {
			_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("big"), Value: value[:size]})
			return err
		}
		equal(t, "62 MiB", put(62<<20), nil)
		if a.Flavor.IsKeepd() {
			wantError(t, put(70<<20), codes.InvalidArgument, errTooLarge)
		} else {
			equal(t, "70 MiB", put(70<<20), nil)
			equal(t, "62 MiB again", put(62<<20), nil)
		}
		a.Restart()
		equal(t, "comes back whole", bytes.Equal(a.one("big").Kvs[0].Value, value[:62<<20]), true)
	})
}
