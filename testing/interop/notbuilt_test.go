package interop

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

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
			if !flavor.Has(harness.Clusters) {
				t.Run("clusters", func(t *testing.T) { clustersAreRefused(t, a) })
			}
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

func clustersAreRefused(t *testing.T, a *api) {
	urls := []string{"http://127.0.0.1:1"}
	add := &pb.MemberAddRequest{PeerURLs: urls}
	wantUnimplemented(t, "add", second(a.cluster.MemberAdd(ctx(t), add)))

	s := harness.Prepare(t, harness.Options{Flavor: a.Flavor})
	s.InitialCluster += ",other=http://127.0.0.1:1"
	s.Launch()
	if s.Wait(t, 20*time.Second) == 0 {
		t.Error("a member of a cluster of two starts")
	}
	if !strings.Contains(s.Tail(4000), "more than one member") {
		t.Errorf("the reason is not given:\n%s", s.Tail(4000))
	}
	if left, _ := filepath.Glob(filepath.Join(s.DataDir, "*")); len(left) != 0 {
		t.Errorf("the refused start leaves %v", left)
	}
}
