// Package interop holds the tests that drive a store from outside, through the official client
// libraries and programs. Each runs against real etcd and against keepd, plain and sealed.
package interop

import (
	"context"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keepd/keepd/testing/interop/harness"
)

// api is the bare protocol of one store.
type api struct {
	t *testing.T
	*harness.Store
	conn        *grpc.ClientConn
	kv          pb.KVClient
	watch       pb.WatchClient
	lease       pb.LeaseClient
	cluster     pb.ClusterClient
	maintenance pb.MaintenanceClient
	auth        pb.AuthClient
}

func newAPI(t *testing.T, s *harness.Store) *api {
	conn := s.Conn()
	return &api{
		t: t, Store: s, conn: conn,
		kv: pb.NewKVClient(conn), watch: pb.NewWatchClient(conn), lease: pb.NewLeaseClient(conn),
		cluster: pb.NewClusterClient(conn), maintenance: pb.NewMaintenanceClient(conn),
		auth: pb.NewAuthClient(conn),
	}
}

// onEach runs a test of the bare protocol against a fresh store of each flavor.
func onEach(t *testing.T, test func(t *testing.T, a *api)) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) { test(t, newAPI(t, s)) })
}

func onEachWith(t *testing.T, args []string, test func(t *testing.T, a *api)) {
	harness.OnEachWith(t, harness.Options{Args: args},
		func(t *testing.T, s *harness.Store) { test(t, newAPI(t, s)) })
}

// onEachThatHas leaves out the stores that lack a feature.
func onEachThatHas(t *testing.T, feature harness.Feature, test func(t *testing.T, a *api)) {
	harness.OnEachWith(t, harness.Options{Needs: []harness.Feature{feature}},
		func(t *testing.T, s *harness.Store) { test(t, newAPI(t, s)) })
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func (a *api) put(key, value string) *pb.PutResponse {
	a.t.Helper()
	return must(a.kv.Put(ctx(a.t), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}))(a.t)
}

func (a *api) del(key string) *pb.DeleteRangeResponse {
	a.t.Helper()
	return must(a.kv.DeleteRange(ctx(a.t), &pb.DeleteRangeRequest{Key: []byte(key)}))(a.t)
}

func (a *api) get(request *pb.RangeRequest) *pb.RangeResponse {
	a.t.Helper()
	return must(a.kv.Range(ctx(a.t), request))(a.t)
}

func (a *api) one(key string) *pb.RangeResponse {
	a.t.Helper()
	return a.get(&pb.RangeRequest{Key: []byte(key)})
}

func (a *api) txn(request *pb.TxnRequest) *pb.TxnResponse {
	a.t.Helper()
	return must(a.kv.Txn(ctx(a.t), request))(a.t)
}

// revision is the store's current one, by a linearizable read.
func (a *api) revision() int64 {
	a.t.Helper()
	return a.one("no such key").Header.Revision
}

// must turns an error into the end of the test.
func must[T any](value T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatalf("unexpected error: %v", err)
		}
		return value
	}
}

// wantError compares code and text; both are part of the protocol.
func wantError(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	got := status.Convert(err)
	if got.Code() != code || got.Message() != text {
		t.Errorf("got error %v %q, want %v %q", got.Code(), got.Message(), code, text)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
