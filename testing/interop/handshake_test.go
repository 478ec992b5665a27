package interop

import (
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// A refused handshake is told with its reason, in the words of Go's etcdctl.
func TestRefusedHandshakesAreToldByEtcdctl(t *testing.T) {
	pki, stranger := harness.OpenSSL(t), harness.OpenSSL(t)
	pki.Leaf(t, "wrong", "/CN=wrong", "serverAuth", "")
	harness.OnEachWith(t, harness.Options{PKI: pki}, func(t *testing.T, s *harness.Store) {
		tools := []program{realTool(t, "etcdctl")}
		if harness.KeepdBin() != "" {
			tools = append(tools, ownTool("etcdctl"))
		}
		for _, tool := range tools {
			for name, of := range map[string]struct {
				args []string
				told string
			}{
				"no certificate":       {[]string{"--cacert=" + pki.Path("ca.crt")}, "tls: certificate required"},
				"of another authority": {pairOf(pki, stranger, "client"), "tls: "},
				"of a server":          {pairOf(pki, pki, "wrong"), "tls: "},
				"server of another":    {pairOf(stranger, pki, "client"), "x509: certificate signed by unknown authority"},
			} {
				args := append([]string{"--endpoints=" + s.ClientURL, "--command-timeout=1s"}, of.args...)
				// etcd closes at once: a write may meet that before the alert is read.
				tries := 1
				if s.Flavor == harness.Etcd {
					tries = 6
				}
				var out harness.Output
				for range tries {
					out = tool.run(t, "", append(args, "get", "a")...)
					if out.Code == 0 || strings.Contains(out.Stderr, of.told) {
						break
					}
				}
				if out.Code == 0 || !strings.Contains(out.Stderr, of.told) {
					t.Errorf("%s, %s: exit code %d: %s", tool.name, name, out.Code, out.Stderr)
				}
			}
		}
	})
}

// pairOf trusts one authority and shows the certificate of another.
func pairOf(trusted, shown *harness.PKI, name string) []string {
	return []string{
		"--cacert=" + trusted.Path("ca.crt"), "--cert=" + shown.Path(name+".crt"), "--key=" + shown.Path(name+".key"),
	}
}

// A server that comes back is found soon, whatever the pauses have grown to.
func TestEtcdctlFindsAServerThatComesBack(t *testing.T) {
	t.Parallel()
	harness.NeedKeepd(t)
	s := harness.Prepare(t, harness.Options{Flavor: harness.Keepd})
	done := make(chan harness.Output, 1)
	go func() {
		args := append(s.CtlArgs(), "--command-timeout=60s", "--dial-timeout=60s", "put", "a", "1")
		done <- ownTool("etcdctl").run(t, "", args...)
	}()
	time.Sleep(3 * time.Second)
	s.Launch()
	s.WaitReady()
	ready := time.Now()
	out := <-done
	equal(t, "answer", out.Stdout+out.Stderr[:0], "OK\n")
	t.Logf("answered %v after the server was ready", time.Since(ready))
}
