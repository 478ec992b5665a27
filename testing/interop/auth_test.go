package interop

import (
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Without users authentication is off, and what asks about it is answered: clients that have a user
// in their configuration go on, tools that list users find none.
func TestAuthenticationThatIsOff(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		a := newAPI(t, s)
		a.put("a", "1")
		answers := map[string]string{}
		keep := func(name string, response proto.Message, err error) {
			if err != nil {
				answers[name] = fmt.Sprintf("%v %s", status.Code(err), status.Convert(err).Message())
				return
			}
			header := response.ProtoReflect()
			field := header.Descriptor().Fields().ByName("header")
			revision := header.Get(field).Message().Interface().(*pb.ResponseHeader).Revision
			header.Clear(field)
			answers[name] = fmt.Sprintf("revision %d, %v", revision, response)
		}
		ask := func(name string) func(response proto.Message, err error) {
			return func(response proto.Message, err error) { keep(name, response, err) }
		}
		c := ctx(t)
		ask("authenticate")(as(a.auth.Authenticate(c, &pb.AuthenticateRequest{Name: "u", Password: "p"})))
		ask("authenticate nobody")(as(a.auth.Authenticate(c, &pb.AuthenticateRequest{})))
		ask("disable")(as(a.auth.AuthDisable(c, &pb.AuthDisableRequest{})))
		ask("status")(as(a.auth.AuthStatus(c, &pb.AuthStatusRequest{})))
		ask("user list")(as(a.auth.UserList(c, &pb.AuthUserListRequest{})))
		ask("user get")(as(a.auth.UserGet(c, &pb.AuthUserGetRequest{Name: "u"})))
		ask("user delete")(as(a.auth.UserDelete(c, &pb.AuthUserDeleteRequest{Name: "u"})))
		ask("user delete root")(as(a.auth.UserDelete(c, &pb.AuthUserDeleteRequest{Name: "root"})))
		ask("user password")(as(a.auth.UserChangePassword(c, &pb.AuthUserChangePasswordRequest{Name: "u", Password: "p"})))
		ask("user revoke")(as(a.auth.UserRevokeRole(c, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"})))
		ask("role list")(as(a.auth.RoleList(c, &pb.AuthRoleListRequest{})))
		ask("role get")(as(a.auth.RoleGet(c, &pb.AuthRoleGetRequest{Role: "r"})))
		ask("role get root")(as(a.auth.RoleGet(c, &pb.AuthRoleGetRequest{Role: "root"})))
		ask("role delete")(as(a.auth.RoleDelete(c, &pb.AuthRoleDeleteRequest{Role: "r"})))
		ask("role revoke")(as(a.auth.RoleRevokePermission(c, &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("k")})))
		var lines []string
		for name, answer := range answers {
			lines = append(lines, name+": "+strings.Join(strings.Fields(answer), " "))
		}
		sort.Strings(lines)
		equal(t, "answers", strings.Join(lines, "\n"), strings.TrimSpace(`
authenticate nobody: FailedPrecondition etcdserver: authentication is not enabled
authenticate: FailedPrecondition etcdserver: authentication is not enabled
disable: revision 2,
role delete: FailedPrecondition etcdserver: role name not found
role get root: FailedPrecondition etcdserver: role name not found
role get: FailedPrecondition etcdserver: role name not found
role list: revision 2,
role revoke: FailedPrecondition etcdserver: role name not found
status: revision 2, authRevision:1
user delete root: FailedPrecondition etcdserver: user name not found
user delete: FailedPrecondition etcdserver: user name not found
user get: FailedPrecondition etcdserver: user name not found
user list: revision 2,
user password: FailedPrecondition etcdserver: user name not found
user revoke: FailedPrecondition etcdserver: user name not found`))

		list := must(healthpb.NewHealthClient(a.conn).List(c, &healthpb.HealthListRequest{}))(t)
		equal(t, "health list", fmt.Sprint(len(list.Statuses), list.Statuses[""].GetStatus()), "1 SERVING")

		client := must(clientv3.New(clientv3.Config{
			Endpoints: []string{s.ClientURL}, Username: "u", Password: "p", DialTimeout: 10 * time.Second,
		}))(t)
		defer client.Close()
		got := must(client.Get(c, "a"))(t)
		equal(t, "a client with a user", string(got.Kvs[0].Value), "1")
		tools := []program{realTool(t, "etcdctl")}
		if harness.KeepdBin() != "" {
			tools = append(tools, ownTool("etcdctl"))
		}
		for _, tool := range tools {
			for _, command := range []string{"get a", "user list", "role list", "auth status", "auth disable"} {
				args := append(a.CtlArgs(), "--user=u:p")
				out := tool.must(t, append(args, strings.Fields(command)...)...)
				want := map[string]string{"get a": "a\n1\n", "auth disable": "Authentication Disabled\n",
					"auth status": "Authentication Status: false\nAuthRevision: 1\n"}[command]
				equal(t, tool.name+" --user "+command, out, want)
			}
		}
	})
}

func as[T proto.Message](response T, err error) (proto.Message, error) { return response, err }

// Test frameworks always pass it; keepd obeys, and says so wherever somebody may look.
func TestUnsafeNoFsync(t *testing.T) {
	options := harness.Options{Args: []string{"--unsafe-no-fsync"}}
	harness.OnEachWith(t, options, func(t *testing.T, s *harness.Store) {
		a := newAPI(t, s)
		a.put("a", "1")
		if !s.Flavor.IsKeepd() {
			return
		}
		const told = "keepd: --unsafe-no-fsync: nothing is synced, a power cut loses acknowledged writes"
		equal(t, "status", strings.Join(a.status().Errors, "\n"), told)
		if !strings.Contains(s.Tail(1<<20), told) {
			t.Error("the log does not say so")
		}
		code, page := a.http("GET", "/metrics", "")
		equal(t, "metrics", code, 200)
		if !strings.Contains(page, "\nkeepd_unsafe_no_fsync 1\n") {
			t.Error("no metric says so")
		}
		// What was written is on the disk for a process that ends, if not for a power cut.
		s.Kill()
		s.Launch()
		s.WaitReady()
		equal(t, "after a kill", a.MustCtl("get", "a"), "a\n1\n")
	})
}

// A name that is no host is compared as it is, others as Go compares them.
func TestAllowedHostnames(t *testing.T) {
	pki := harness.OpenSSL(t)
	for name, san := range map[string]string{
		"star": "DNS:*.example.com", "host": "DNS:a.example.com", "deep": "DNS:a.b.example.com", "address": "IP:10.0.0.1", "none": "",
	} {
		pki.Leaf(t, name, "/CN="+name, "clientAuth", san)
	}
	for allowed, lets := range map[string]string{
		"*.example.com": "star", "a.example.com": "host star", "A.EXAMPLE.COM.": "host star", "10.0.0.1": "address",
	} {
		t.Run(allowed, func(t *testing.T) {
			options := harness.Options{PKI: pki, Args: []string{"--client-cert-allowed-hostname=" + allowed}}
			for _, flavor := range harness.Flavors() {
				if flavor == harness.KeepdSealed {
					continue
				}
				options.Flavor = flavor
				s := harness.Prepare(t, options)
				s.Launch()
				in := must(tlsPair(pki, strings.Fields(lets)[0]))(t)
				for deadline := time.Now().Add(40 * time.Second); showPair(t, s, in) != nil; {
					if s.Exited() || time.Now().After(deadline) {
						t.Fatalf("%s is not ready\n%s", flavor, s.Tail(4000))
					}
					time.Sleep(30 * time.Millisecond)
				}
				for _, name := range []string{"star", "host", "deep", "address", "none"} {
					err := showPair(t, s, must(tlsPair(pki, name))(t))
					if let := strings.Contains(" "+lets+" ", " "+name+" "); (err == nil) != let {
						t.Errorf("%s: %s: %v, expected to be let in: %v", flavor, name, err, let)
					}
				}
			}
		})
	}
}
