package interop

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/keepd/keepd/testing/interop/harness"
)

func onEachPKI(t *testing.T, test func(t *testing.T, a *api)) {
	t.Parallel()
	for name, make := range map[string]func(testing.TB) *harness.PKI{
		"openssl": harness.OpenSSL, "cfssl": harness.CFSSL,
	} {
		t.Run(name, func(t *testing.T) {
			pki := make(t)
			harness.OnEachWith(t, harness.Options{PKI: pki}, func(t *testing.T, s *harness.Store) {
				test(t, newAPI(t, s))
			})
		})
	}
}

// statusOver asks for the status with another TLS configuration.
func statusOver(t *testing.T, a *api, config *tls.Config) error {
	t.Helper()
	conn := must(grpc.NewClient("passthrough:///"+a.Endpoint,
		grpc.WithTransportCredentials(credentials.NewTLS(config))))(t)
	defer conn.Close()
	_, err := pb.NewMaintenanceClient(conn).Status(ctx(t), &pb.StatusRequest{})
	return err
}

func TestMutualTLS(t *testing.T) {
	onEachPKI(t, func(t *testing.T, a *api) {
		a.put("a", "1")
		client := a.Client()
		got := must(client.Get(ctx(t), "a"))(t)
		equal(t, "official client", string(got.Kvs[0].Value), "1")
		equal(t, "etcdctl", a.MustCtl("get", "a"), "a\n1\n")

		if statusOver(t, a, a.PKI.AnonymousTLS(t)) == nil {
			t.Error("a client without a certificate is served")
		}
		stranger := harness.OpenSSL(t)
		config := a.PKI.AnonymousTLS(t)
		config.Certificates = stranger.ClientTLS(t).Certificates
		if statusOver(t, a, config) == nil {
			t.Error("a client with a certificate of another authority is served")
		}
		out := harness.Run(t, nil, "", harness.EtcdTool(t, "etcdctl"), "--endpoints="+a.ClientURL,
			"--cacert="+a.PKI.Path("ca.crt"), "--command-timeout=2s", "get", "a")
		equal(t, "etcdctl without a certificate fails", out.Code != 0, true)
		old := a.PKI.ClientTLS(t)
		old.MaxVersion = tls.VersionTLS11
		if statusOver(t, a, old) == nil {
			t.Error("TLS 1.1 is served")
		}
		modern := a.PKI.ClientTLS(t)
		modern.MinVersion = tls.VersionTLS13
		equal(t, "TLS 1.3", statusOver(t, a, modern), nil)
		older := a.PKI.ClientTLS(t)
		older.MaxVersion = tls.VersionTLS12
		equal(t, "TLS 1.2", statusOver(t, a, older), nil)
	})
}

// kubeadm's check speaks HTTP/1.1 over mutual TLS and offers no application protocol.
func TestPlainHTTPOverMutualTLS(t *testing.T) {
	onEachPKI(t, func(t *testing.T, a *api) {
		var version map[string]string
		response := must(a.HTTP().Get(a.ClientURL + "/version"))(t)
		defer response.Body.Close()
		if err := json.Unmarshal(must(io.ReadAll(response.Body))(t), &version); err != nil {
			t.Fatal(err)
		}
		equal(t, "version", version["etcdserver"], "3.7.1")
		equal(t, "protocol", response.Proto, "HTTP/1.1")
		anonymous := &http.Client{
			Transport: &http.Transport{TLSClientConfig: a.PKI.AnonymousTLS(t)}, Timeout: 10 * time.Second,
		}
		if response, err := anonymous.Get(a.ClientURL + "/health"); err == nil {
			response.Body.Close()
			t.Error("a client without a certificate is served")
		}
	})
}

// Short tutorials make version 1 leaves, and pass the server's certificate as the client's.
func TestCertificatesOfTutorials(t *testing.T) {
	pki := harness.OpenSSL(t)
	pki.RSALeafV1(t, "v1", "/CN=v1")
	harness.OnEachWith(t, harness.Options{PKI: pki}, func(t *testing.T, s *harness.Store) {
		for _, name := range []string{"v1", "server"} {
			harness.MustRun(t, nil, harness.EtcdTool(t, "etcdctl"), "--endpoints="+s.ClientURL,
				"--cacert="+pki.Path("ca.crt"), "--cert="+pki.Path(name+".crt"),
				"--key="+pki.Path(name+".key"), "put", name, "served")
		}
	})
}

func tlsPair(pki *harness.PKI, name string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(pki.Path(name+".crt"), pki.Path(name+".key"))
}
