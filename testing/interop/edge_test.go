package interop

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keepd/keepd/testing/interop/harness"
)

// probe sends one request, follows nothing, and returns the answer with its body.
func probe(t *testing.T, s *harness.Store, method, url string, header http.Header) (*http.Response, string) {
	t.Helper()
	client := s.HTTP()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	request := must(http.NewRequest(method, url, nil))(t)
	if host := header.Get("Host"); host != "" {
		request.Host = host
	}
	request.Header = header
	response := must(client.Do(request))(t)
	defer response.Body.Close()
	return response, string(must(io.ReadAll(response.Body))(t))
}

// What load balancers, probes and scrapers send besides a plain GET.
func TestHTTPProbes(t *testing.T) {
	t.Parallel()
	type answer struct {
		code            int
		location, allow string
		body            string
	}
	redirected := func(to string) answer { return answer{307, to, "", ""} }
	linked := func(to string) answer {
		return answer{307, to, "", `<a href="` + to + `">Temporary Redirect</a>.` + "\n\n"}
	}
	notFound := answer{404, "", "", "404 page not found\n"}
	notAllowed := answer{405, "", "GET", "Method Not Allowed\n"}
	any := answer{200, "", "", ""}
	healthy := answer{200, "", "", `{"health":"true","reason":""}`}
	cases := []struct {
		method, path    string
		client, metrics answer
	}{
		{"GET", "/health", healthy, healthy},
		{"HEAD", "/health", notAllowed, notAllowed},
		{"POST", "/health", notAllowed, notAllowed},
		{"GET", "/health?x=//y", healthy, healthy},
		{"HEAD", "/livez", notAllowed, notAllowed},
		{"POST", "/readyz", notAllowed, notAllowed},
		{"HEAD", "/metrics", any, any},
		{"POST", "/metrics", any, any},
		{"PUT", "/metrics", any, any},
		{"DELETE", "/metrics", any, any},
		{"OPTIONS", "/metrics", any, any},
		{"OPTIONS", "/health", any, notAllowed},
		{"OPTIONS", "//health", any, redirected("/health")},
		{"OPTIONS", "/nonsense", any, notFound},
		{"GET", "//health", linked("/health"), linked("/health")},
		{"HEAD", "//health", redirected("/health"), redirected("/health")},
		{"POST", "//health", redirected("/health"), redirected("/health")},
		{"GET", "//health?serializable=true", linked("/health?serializable=true"), linked("/health?serializable=true")},
		{"GET", "//metrics", linked("/metrics"), linked("/metrics")},
		{"GET", "/./health", linked("/health"), linked("/health")},
		{"GET", "/x/../health", linked("/health"), linked("/health")},
		{"GET", "/health//x", linked("/health/x"), linked("/health/x")},
		{"GET", "/health//x/", linked("/health/x/"), linked("/health/x/")},
		{"GET", "/health/", notFound, notFound},
		{"GET", "/metrics/", notFound, notFound},
		{"GET", "/METRICS", notFound, notFound},
		{"GET", "/healthz", notFound, notFound},
		{"GET", "/livez/nope", notFound, notFound},
		{"GET", "/", notFound, notFound},
		{"HEAD", "/version", notAllowed, notFound},
		{"GET", "//version", linked("/version"), linked("/version")},
	}
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			own := fmt.Sprintf("http://127.0.0.1:%d", harness.FreePort(t))
			s := harness.Start(t, harness.Options{Flavor: flavor, Args: []string{"--listen-metrics-urls=" + own}})
			for _, c := range cases {
				for base, want := range map[string]answer{s.ClientURL: c.client, own: c.metrics} {
					response, body := probe(t, s, c.method, base+c.path, http.Header{})
					if want == any && c.path == "/metrics" {
						body = ""
					}
					if c.method == "HEAD" {
						want.body = ""
					}
					got := answer{response.StatusCode, response.Header.Get("Location"), response.Header.Get("Allow"), body}
					if got != want {
						t.Errorf("%s %s%s: got %+v, want %+v", c.method, base, c.path, got, want)
					}
				}
			}
		})
	}
}

// What a browser may do on behalf of a page: hosts on plain ports, origins everywhere.
func TestHostsAndOriginsOfPages(t *testing.T) {
	const page = "http://page.example:80"
	args := []string{"--host-whitelist=good.example,localhost", "--cors=" + page}
	header := func(host, origin string) http.Header {
		h := http.Header{}
		h.Set("Host", host)
		if origin != "" {
			h.Set("Origin", origin)
		}
		return h
	}
	harness.OnEachWith(t, harness.Options{Args: args}, func(t *testing.T, s *harness.Store) {
		for _, c := range []struct {
			method, host, origin string
			code                 int
			allowed              string
		}{
			{"GET", "good.example", "", 200, ""},
			{"GET", "localhost:2379", page, 200, page},
			{"GET", "localhost", "http://evil.example", 200, ""},
			{"GET", "evil.example", page, 421, ""},
			{"GET", "evil.example:2379", "", 421, ""},
			{"GET", "127.0.0.1:2379", "", 421, ""},
			{"OPTIONS", "evil.example", page, 421, ""},
			{"OPTIONS", "localhost", page, 200, page},
			{"OPTIONS", "localhost", "http://evil.example", 200, ""},
		} {
			response, body := probe(t, s, c.method, s.ClientURL+"/version", header(c.host, c.origin))
			name := fmt.Sprint(c)
			equal(t, name, response.StatusCode, c.code)
			equal(t, name, response.Header.Get("Access-Control-Allow-Origin"), c.allowed)
			if c.code == 421 {
				want := "\netcd received your request, but the Host header was unrecognized.\n\n" +
					"To fix this, choose one of the following options:\n" +
					"- Enable TLS, then any HTTPS request will be allowed.\n" +
					"- Add the hostname you want to use to the whitelist in settings.\n" +
					"  - e.g. etcd --host-whitelist \"" + strings.Split(c.host, ":")[0] + "\"\n\n" +
					"This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n\n"
				if strings.TrimSpace(body) != strings.TrimSpace(want) {
					t.Errorf("%s: got %q", name, body)
				}
			}
		}
		// gRPC names the endpoint, which is on no list.
		newAPI(t, s).put("a", "1")
	})
}

// gRPC is HTTP/2's: what a page can send to a plain port under a rebound name reaches no key.
func TestGRPCIsNotServedOverHTTP1(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("precious", "1")
		everything := "\x00\x00\x00\x00\x06\x0a\x01\x00\x12\x01\x00"
		for _, kind := range []string{"application/grpc", "application/grpc+proto", "application/grpc-web", "text/plain"} {
			request := must(http.NewRequest("POST", a.ClientURL+"/etcdserverpb.KV/DeleteRange", strings.NewReader(everything)))(t)
			request.Header.Set("Content-Type", kind)
			request.Host = "evil.example"
			response := must(a.HTTP().Do(request))(t)
			response.Body.Close()
			equal(t, kind, response.StatusCode, 404)
		}
		equal(t, "the key", a.MustCtl("get", "precious", "--print-value-only"), "1\n")
	})
}

// Over TLS any host will do: no certificate is valid for a foreign page's name. By default every
// origin may read the HTTP endpoints, but keepd grants no page what it could call gRPC with.
func TestHostsOverTLSAndOriginsByDefault(t *testing.T) {
	options := harness.Options{PKI: harness.OpenSSL(t), Args: []string{"--host-whitelist=good.example"}}
	harness.OnEachWith(t, options, func(t *testing.T, s *harness.Store) {
		header := http.Header{"Host": {"evil.example"}, "Origin": {"http://evil.example"}}
		response, _ := probe(t, s, "GET", s.ClientURL+"/version", header)
		equal(t, "code", response.StatusCode, 200)
		equal(t, "origin", response.Header.Get("Access-Control-Allow-Origin"), "*")
		if s.Flavor.IsKeepd() {
			for _, path := range []string{"/etcdserverpb.KV/DeleteRange", "/keepd/encryption"} {
				response, _ = probe(t, s, "OPTIONS", s.ClientURL+path, header)
				equal(t, path, response.StatusCode, 200)
				equal(t, path, response.Header.Get("Access-Control-Allow-Origin"), "")
			}
		}
	})
}

// Under a rebound name a page could read whatever is served to every host; keepd's own paths are not,
// though every host is allowed by default.
func TestReboundNamesDoNotReachKeepdsOwnPaths(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd})
	_, port, _ := net.SplitHostPort(s.Endpoint)
	for host, code := range map[string]int{
		"evil.example:" + port: 421, "evil.example": 421, "localhost.evil.example": 421,
		"127.0.0.1:" + port: 200, "[::1]:" + port: 200, "localhost:" + port: 200, "10.1.2.3": 200,
	} {
		response, body := probe(t, s, "GET", s.ClientURL+"/keepd/encryption", http.Header{"Host": {host}})
		equal(t, host, response.StatusCode, code)
		if code == 421 && strings.Contains(body, "sealing") {
			t.Errorf("%s: %s", host, body)
		}
		response, _ = probe(t, s, "GET", s.ClientURL+"/version", http.Header{"Host": {host}})
		equal(t, host+" and etcd's paths", response.StatusCode, 200)
	}
}

// Go listens on every address of both families when told 0.0.0.0.
func TestWildcardAddressServesIPv6(t *testing.T) {
	t.Parallel()
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here")
	} else {
		l.Close()
	}
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			s := harness.Prepare(t, harness.Options{Flavor: flavor})
			_, port, _ := net.SplitHostPort(s.Endpoint)
			peer, metrics := harness.FreePort(t), harness.FreePort(t)
			s.Launch("--listen-client-urls=http://0.0.0.0:"+port,
				fmt.Sprintf("--listen-peer-urls=http://0.0.0.0:%d", peer),
				fmt.Sprintf("--listen-metrics-urls=http://0.0.0.0:%d", metrics))
			s.WaitReady()
			for _, port := range []string{port, fmt.Sprint(peer), fmt.Sprint(metrics)} {
				for _, host := range []string{"127.0.0.1", "::1"} {
					c := must(net.DialTimeout("tcp", net.JoinHostPort(host, port), 5*time.Second))(t)
					c.Close()
				}
			}
			s.MustCtl("--endpoints=http://[::1]:"+port, "put", "a", "1")
		})
	}
}

// Flags that a unit file or a chart leaves empty, and folders that an image leaves empty.
func TestEmptyFlagsAndFolders(t *testing.T) {
	var args []string
	for _, flag := range strings.Fields(`listen-peer-urls listen-client-urls listen-metrics-urls
		listen-client-http-urls initial-advertise-peer-urls advertise-client-urls wal-dir
		auth-token auto-compaction-retention backend-bbolt-freelist-type cert-file
		client-cert-allowed-hostname client-cert-file client-crl-file client-key-file config-file
		discovery-cacert discovery-cert discovery-key discovery-password discovery-srv
		discovery-srv-name discovery-token discovery-user distributed-tracing-address
		distributed-tracing-instance-id distributed-tracing-service-name feature-gates
		host-whitelist initial-cluster-token key-file log-format log-level
		log-rotation-config-json metrics peer-cert-allowed-cn peer-cert-allowed-hostname
		peer-cert-file peer-client-cert-file peer-client-key-file peer-crl-file peer-key-file
		peer-trusted-ca-file tls-max-version tls-min-version trusted-ca-file`) {
		args = append(args, "--"+flag+"=")
	}
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			s := harness.Prepare(t, harness.Options{Flavor: flavor, Args: args})
			for _, dir := range []string{"wal", "snap"} {
				if err := os.MkdirAll(filepath.Join(s.DataDir, "member", dir), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(s.DataDir, 0o700); err != nil {
				t.Fatal(err)
			}
			s.Launch()
			s.WaitReady()
			s.MustCtl("put", "a", "1")
			s.Restart()
			equal(t, "after a restart", s.MustCtl("get", "a", "--print-value-only"), "1\n")
		})
	}
}

// Signals that a supervisor or a habit sends and that mean nothing to etcd.
func TestSignalsThatAreIgnored(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		for _, signal := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
			syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGIO, syscall.SIGPWR, syscall.SIGXCPU,
			syscall.SIGXFSZ, syscall.SIGWINCH, syscall.SIGPIPE, 40, 64} {
			s.Signal(t, signal)
		}
		s.MustCtl("put", "a", "1")
		time.Sleep(50 * time.Millisecond)
		if s.Exited() {
			t.Fatal("a signal has ended it")
		}
		s.Signal(t, syscall.SIGHUP)
		s.Wait(t, 20*time.Second)
		equal(t, "the end of its terminal is its end", s.EndedBy(), syscall.SIGHUP)
	})
}

// intoClosedPipe runs a program whose standard output nobody reads.
func intoClosedPipe(t *testing.T, p program, args ...string) (syscall.WaitStatus, string) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(limit, p.path, append(append([]string{}, p.args...), args...)...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = write, &stderr, t.TempDir()
	_ = cmd.Run()
	return cmd.ProcessState.Sys().(syscall.WaitStatus), stderr.String()
}

// A reader that goes away ends a program quietly.
func TestClosedPipesEndCommandsQuietly(t *testing.T) {
	onEachCtl(t, func(t *testing.T, s *harness.Store, ctl program) {
		ctl.must(t, append(s.CtlArgs(), "put", "k", "v")...)
		snapshot := filepath.Join(t.TempDir(), "snapshot.db")
		ctl.must(t, append(s.CtlArgs(), "snapshot", "save", snapshot)...)
		utl := ownTool("etcdutl")
		if !strings.HasPrefix(ctl.name, "keepd") {
			utl = realTool(t, "etcdutl")
		}
		ended := func(p program, args ...string) {
			t.Helper()
			status, stderr := intoClosedPipe(t, p, args...)
			if status.Signal() != syscall.SIGPIPE || stderr != "" {
				t.Errorf("%s %v: exit %d, signal %v, %q", p.name, args, status.ExitStatus(), status.Signal(), stderr)
			}
		}
		for _, line := range []string{"get k", "put k v", "member list",
			"endpoint status", "endpoint hashkv", "lease grant 60", "del k", "lease list", "help",
			"help put", "version", "completion bash", "watch k --rev=1", "member list -w table", "get k -w json"} {
			ended(ctl, append(s.CtlArgs(), strings.Fields(line)...)...)
		}
		ended(utl, "snapshot", "status", snapshot)
		ended(utl, "version")
		ended(utl, "help")
	})
}

// keepd's own verbs, and a watch that waits for an event that nobody will read: etcdctl stays until
// the next event comes, keepd's goes when its reader does.
func TestClosedPipesEndKeepdQuietly(t *testing.T) {
	t.Parallel()
	keepd := program{"keepd", harness.NeedKeepd(t), nil}
	for _, line := range []string{"help", "version", "etcd --version", "etcd --help", "encryption keygen"} {
		status, stderr := intoClosedPipe(t, keepd, strings.Fields(line)...)
		if status.Signal() != syscall.SIGPIPE || strings.Contains(stderr, "panic") {
			t.Errorf("%s: exit %d, signal %v, %q", line, status.ExitStatus(), status.Signal(), stderr)
		}
	}
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd})
	status, stderr := intoClosedPipe(t, ownTool("etcdctl"), append(s.CtlArgs(), "watch", "nothing")...)
	if status.Signal() != syscall.SIGPIPE || stderr != "" {
		t.Errorf("watch: exit %d, signal %v, %q", status.ExitStatus(), status.Signal(), stderr)
	}
}

// A log that nobody reads, or that cannot be written, is no reason to end.
func TestLogsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for name, output := range map[string]string{
		"full": "/dev/full", "reader gone": "stderr", "reader of stdout gone": "stdout",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := harness.Prepare(t, harness.Options{Flavor: harness.Keepd})
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			read.Close()
			cmd := exec.Command(harness.NeedKeepd(t), "etcd", "--data-dir="+s.DataDir, "--log-level=debug",
				"--listen-client-urls="+s.ClientURL, "--advertise-client-urls="+s.ClientURL,
				"--listen-peer-urls="+s.PeerURL, "--log-outputs="+output)
			cmd.Stdout, cmd.Stderr = write, write
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			write.Close()
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			a := newAPI(t, s)
			harness.Eventually(t, 20*time.Second, "it serves", func() bool {
				_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
				return err == nil
			})
			select {
			case err := <-ended:
				t.Fatalf("it has ended: %v", err)
			default:
			}
		})
	}
}

// A log file may name keys.
func TestLogFilesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "keepd.log")
	harness.Start(t, harness.Options{Flavor: harness.Keepd, Args: []string{"--log-outputs=" + log}})
	equal(t, "mode", must(os.Stat(log))(t).Mode().Perm(), os.FileMode(0o600))
}

// Endpoints as environment files leave them, in quotes, and as old tools write them, with a user.
func TestEndpointsInQuotesAndWithUsers(t *testing.T) {
	onEachCtl(t, func(t *testing.T, s *harness.Store, ctl program) {
		for _, endpoints := range []string{
			`"` + s.ClientURL + `"`, `"` + s.Endpoint + `"`, `"` + s.ClientURL + `",` + s.ClientURL,
			"http://user:password@" + s.Endpoint, "http://" + s.Endpoint + "/?x=1",
		} {
			out := ctl.run(t, "", "--endpoints="+endpoints, "put", "k", "v")
			equal(t, endpoints, out.Stdout+out.Stderr, "OK\n")
			out = harness.Run(t, []string{"ETCDCTL_ENDPOINTS=" + endpoints}, "", ctl.path,
				append(append([]string{}, ctl.args...), "put", "k", "v")...)
			equal(t, endpoints, out.Stdout+out.Stderr, "OK\n")
		}
		for _, endpoints := range []string{`"` + s.ClientURL, s.ClientURL + `"`} {
			out := ctl.run(t, "", "--endpoints="+endpoints, "put", "k", "v")
			if out.Code == 0 || !strings.Contains(out.Stderr, "parse error on line 1, column") {
				t.Errorf("%s: exit %d, %q", endpoints, out.Code, out.Stderr)
			}
		}
	})
}
