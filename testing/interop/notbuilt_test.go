package interop

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	lockpb "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keepd/keepd/testing/interop/harness"
)

// What keepd lacks it must refuse by name; a wrong answer would be worse than none. When a feature
// is built this test fails until the feature leaves the list in the harness.
func TestWhatIsNotBuiltIsRefused(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		if !flavor.IsKeepd() {
			continue
		}
		t.Run(string(flavor), func(t *testing.T) {
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: flavor}))
			if !flavor.Has(harness.Users) {
				wantUnimplemented(t, "users", second(a.auth.AuthEnable(ctx(t), &pb.AuthEnableRequest{})))
				wantUnimplemented(t, "users", second(a.auth.UserAdd(ctx(t), &pb.AuthUserAddRequest{Name: "a"})))
			}
			if !flavor.Has(harness.LockService) {
				locks := lockpb.NewLockClient(a.conn)
				wantUnimplemented(t, "lock", second(locks.Lock(ctx(t), &lockpb.LockRequest{Name: []byte("l")})))
			}
			if !flavor.Has(harness.Gateway) {
				code, _ := a.http("POST", "/v3/kv/put", `{"key":"Zm9v"}`)
				equal(t, "gateway", code, 404)
			}
			if !flavor.Has(harness.Mirror) {
				for _, command := range []string{"make-mirror", "check"} {
					out := ownTool("etcdctl").run(t, "", append(a.CtlArgs(), command, "x", "y")...)
					equal(t, command+": exit code", out.Code, 1)
					equal(t, command, lastError(out.Stderr), `Error: unknown command "`+command+`" for "etcdctl"`)
				}
			}
			equal(t, "nothing was changed", a.revision(), 1)
		})
	}
}

func wantUnimplemented(t *testing.T, what string, err error) {
	t.Helper()
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("%s: %v, want Unimplemented", what, err)
	}
}
