//go:build foreign

package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Programs of others, unmodified, as they come from the registries. `cargo xtask interop --all`
// builds and runs them; they are too large for every run of continuous integration.

// etcdctl 3.5.0 and whatever else uses that client send an `:authority` that is no host.
func TestForeignEtcdctl350(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		tool := program{"etcdctl 3.5.0", harness.ForeignTool(t, "etcdctl-3.5.0"), nil}
		args := func(words ...string) []string { return append(s.CtlArgs(), words...) }
		equal(t, "put", tool.must(t, args("put", "a", "1")...), "OK\n")
		equal(t, "get", tool.must(t, args("get", "a")...), "a\n1\n")
		equal(t, "with a user", tool.must(t, args("--user=u:p", "get", "a")...), "a\n1\n")
		if out := tool.must(t, args("endpoint", "status")...); !strings.Contains(out, "3.7.1") {
			t.Errorf("status: %s", out)
		}
	})
}

// go-kit 0.13 discovers services by etcd; its own integration tests.
func TestForeignGoKit(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		runForeign(t, harness.ForeignTool(t, "go-kit.test"), t.TempDir(), []string{"ETCD_ADDR=" + s.ClientURL},
			"-test.run=TestIntegration", "-test.v", "-test.count=1")
	})
}

// CoreDNS answers from a store without users, although its configuration names one.
func TestForeignCoreDNS(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		dir, port := t.TempDir(), harness.FreePort(t)
		corefile := fmt.Sprintf(`example.test:%d {
  bind 127.0.0.1
  errors
  etcd {
    path /skydns
    endpoint %s
    credentials user password
  }
}
`, port, s.ClientURL)
		path := filepath.Join(dir, "Corefile")
		if err := os.WriteFile(path, []byte(corefile), 0o600); err != nil {
			t.Fatal(err)
		}
		harness.StartProcess(t, filepath.Join(dir, "log"), nil, harness.CoreDNSTool(t), "-conf", path)
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", port))
		}}
		client := s.Client()
		for name, address := range map[string]string{"a": "10.0.0.1", "b": "10.0.0.2"} {
			record := fmt.Sprintf(`{"host":%q,"port":80}`, address)
			if _, err := client.Put(t.Context(), "/skydns/test/example/"+name, record); err != nil {
				t.Fatal(err)
			}
			harness.Eventually(t, 20*time.Second, "the address of "+name+" is told", func() bool {
				found, err := resolver.LookupHost(t.Context(), name+".example.test.")
				return err == nil && len(found) == 1 && found[0] == address
			})
		}
		_, services, err := resolver.LookupSRV(t.Context(), "", "", "a.example.test.")
		if err != nil || len(services) != 1 || services[0].Port != 80 {
			t.Errorf("SRV: %v %v", services, err)
		}
		if _, err := client.Delete(t.Context(), "/skydns/test/example/b"); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, 20*time.Second, "b is told no more", func() bool {
			_, err := resolver.LookupHost(t.Context(), "b.example.test.")
			var failure *net.DNSError
			return errors.As(err, &failure) && failure.IsNotFound
		})
	})
}

// controller-runtime's own tests of its client: envtest starts etcd and kube-apiserver itself.
func TestForeignControllerRuntime(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		if flavor == harness.KeepdSealed {
			continue
		}
		t.Run(string(flavor), func(t *testing.T) {
			etcd := harness.EtcdTool(t, "etcd")
			if flavor.IsKeepd() {
				etcd = filepath.Join(t.TempDir(), "etcd")
				if err := os.Symlink(harness.KeepdBin(), etcd); err != nil {
					t.Fatal(err)
				}
			}
			module := harness.ModuleDir(t, "envtest", "sigs.k8s.io/controller-runtime")
			environment := []string{
				"TEST_ASSET_ETCD=" + etcd, "TEST_ASSET_KUBE_APISERVER=" + harness.KubeTool(t, "kube-apiserver"),
				"TEST_ASSET_KUBECTL=" + harness.KubeTool(t, "kubectl"),
			}
			runForeign(t, harness.EnvtestTool(t, "controller-runtime-client.test"), filepath.Join(module, "pkg/client"),
				environment, "-test.timeout=15m", "-test.count=1")
		})
	}
}

// runForeign runs a test program in a folder; the end of its output tells why it failed.
func runForeign(t *testing.T, path, dir string, environment []string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, append(os.Environ(), environment...), 10*time.Second
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(path), err, output[max(0, len(output)-4000):])
	}
	if text := string(output); strings.Contains(text, "SKIP:") || !strings.Contains(text, "PASS") {
		t.Errorf("%s ran nothing:\n%s", filepath.Base(path), text)
	}
}

// A Python channel that compresses everything it sends.
func TestForeignGRPCIO(t *testing.T) {
	python := os.Getenv("KEEPD_INTEROP_PYTHON")
	if python == "" {
		t.Fatal("KEEPD_INTEROP_PYTHON names no Python with grpcio: run `cargo xtask interop --all`")
	}
	// A program runs in a folder of its own.
	script, err := filepath.Abs(filepath.Join("foreign", "gzip_channel.py"))
	if err != nil {
		t.Fatal(err)
	}
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		out := harness.MustRun(t, nil, python, script, s.Endpoint)
		equal(t, "answers", out, "put ok\nget 2000\n")
	})
}
