package harness

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Flavor is a kind of store.
type Flavor string

// The stores that a test may run against.
const (
	Etcd        Flavor = "etcd"
	Keepd       Flavor = "keepd"
	KeepdSealed Flavor = "keepd-sealed"
)

// IsKeepd tells our own store from real etcd.
func (f Flavor) IsKeepd() bool { return f != Etcd }

// Flavors are the stores that can be tested here.
func Flavors() []Flavor {
	if KeepdBin() == "" {
		return []Flavor{Etcd}
	}
	return []Flavor{Etcd, Keepd, KeepdSealed}
}

// OnEach runs a test against a fresh store of each flavor.
func OnEach(t *testing.T, test func(t *testing.T, s *Store)) {
	OnEachWith(t, Options{}, test)
}

// OnEachWith is OnEach with options; flavors without what the test needs are left out.
func OnEachWith(t *testing.T, options Options, test func(t *testing.T, s *Store)) {
	t.Parallel()
	for _, flavor := range FlavorsWith(options.Needs...) {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			options := options
			options.Flavor = flavor
			test(t, Start(t, options))
		})
	}
}

// Options say how a store is started; the zero value is a plain single member without TLS.
type Options struct {
	Flavor Flavor
	// DataDir defaults to a fresh folder.
	DataDir string
	// PKI switches TLS with required client certificates on.
	PKI *PKI
	// Encryption is a Kubernetes EncryptionConfiguration for keepd; sealed flavors have a default.
	Encryption string
	// Args are further flags.
	Args []string
	// Name defaults to m1.
	Name string
	// Needs are features without which the test has nothing to ask.
	Needs []Feature
	// OpenFiles is the limit of open files, soft and hard; 0 leaves it alone.
	OpenFiles int
	// InitialCluster defaults to the member alone.
	InitialCluster string
}

// Store is a running member.
type Store struct {
	*Process
	Options
	ClientURL, PeerURL string
	// ListenPeerURL is where it listens for peers; PeerURL, unless a network lies in between.
	ListenPeerURL string
	// Endpoint is host:port of the client URL.
	Endpoint string
	// LogFile holds what the process printed.
	LogFile string
	t       testing.TB
	encFile string
	// pid is that of the last start, for who looks from another goroutine.
	pid *atomic.Int64
}

// SealAll seals every resource and every bare key.
const SealAll = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: ["*.*", "prefix:"]
  providers:
  - aescbc:
      keys:
      - name: key1
        secret: a2VlcGQgdGVzdCBrZXkga2VlcGQgdGVzdCBrZXkhISE=
  - identity: {}
`

// Start starts a store and waits until it serves.
func Start(t testing.TB, options Options) *Store {
	t.Helper()
	s := Prepare(t, options)
	s.Launch()
	s.WaitReady()
	return s
}

// StartCluster starts several members that know each other.
func StartCluster(t testing.TB, size int, options Options) []*Store {
	t.Helper()
	members := prepareAll(t, size, options)
	launchAll(members)
	return members
}

// StartOnNetwork starts several members that know each other, with a network between them.
func StartOnNetwork(t testing.TB, size int, options Options) ([]*Store, *Network) {
	t.Helper()
	members := prepareAll(t, size, options)
	network := NewNetwork(t, members...)
	launchAll(members)
	return members, network
}

func prepareAll(t testing.TB, size int, options Options) []*Store {
	t.Helper()
	var members []*Store
	for i := range size {
		options.Name = fmt.Sprintf("m%d", i+1)
		members = append(members, Prepare(t, options))
	}
	return members
}

func launchAll(members []*Store) {
	var peers []string
	for _, m := range members {
		peers = append(peers, m.InitialCluster)
	}
	for _, m := range members {
		m.InitialCluster = strings.Join(peers, ",")
		m.Launch()
	}
	for _, m := range members {
		m.WaitReady()
	}
}

// Prepare chooses ports and folders without starting anything.
func Prepare(t testing.TB, options Options) *Store {
	t.Helper()
	base := t.TempDir()
	if options.DataDir == "" {
		options.DataDir = filepath.Join(base, "data")
	}
	if options.Name == "" {
		options.Name = "m1"
	}
	if options.Flavor == KeepdSealed && options.Encryption == "" {
		options.Encryption = SealAll
	}
	s := &Store{Options: options, t: t, LogFile: filepath.Join(base, "store.log"), pid: &atomic.Int64{}}
	if options.Encryption != "" {
		s.encFile = filepath.Join(base, "encryption.yaml")
		if err := os.WriteFile(s.encFile, []byte(options.Encryption), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	scheme := "http"
	if options.PKI != nil {
		scheme = "https"
	}
	s.Endpoint = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	s.ClientURL = scheme + "://" + s.Endpoint
	s.PeerURL = fmt.Sprintf("%s://127.0.0.1:%d", scheme, FreePort(t))
	s.ListenPeerURL = s.PeerURL
	if s.InitialCluster == "" {
		s.InitialCluster = s.Name + "=" + s.PeerURL
	}
	return s
}

// Launch starts the process (again, on the same ports and data).
func (s *Store) Launch(extra ...string) {
	s.t.Helper()
	program, args := EtcdTool(s.t, "etcd"), []string{}
	if s.Flavor.IsKeepd() {
		program, args = NeedKeepd(s.t), []string{"etcd"}
		if s.encFile != "" {
			args = append(args, "--encryption-provider-config="+s.encFile)
		}
	}
	args = append(args,
		"--name="+s.Name, "--data-dir="+s.DataDir,
		"--listen-client-urls="+s.ClientURL, "--advertise-client-urls="+s.ClientURL,
		"--listen-peer-urls="+s.ListenPeerURL, "--initial-advertise-peer-urls="+s.PeerURL,
		"--initial-cluster="+s.InitialCluster)
	if p := s.PKI; p != nil {
		args = append(args,
			"--cert-file="+p.Path("server.crt"), "--key-file="+p.Path("server.key"),
			"--trusted-ca-file="+p.Path("ca.crt"), "--client-cert-auth=true",
			"--peer-cert-file="+p.Path("server.crt"), "--peer-key-file="+p.Path("server.key"),
			"--peer-trusted-ca-file="+p.Path("ca.crt"), "--peer-client-cert-auth=true")
	}
	args = append(args, s.Args...)
	args = append(args, extra...)
	if s.OpenFiles != 0 {
		args = append([]string{fmt.Sprintf("--nofile=%d:%d", s.OpenFiles, s.OpenFiles), program}, args...)
		program = "prlimit"
	}
	s.Process = StartProcess(s.t, s.LogFile, nil, program, args...)
	s.pid.Store(int64(s.Process.cmd.Process.Pid))
}

// WaitReady waits until the member knows a leader and answers.
func (s *Store) WaitReady() {
	s.t.Helper()
	conn := s.Conn()
	deadline := time.Now().Add(40 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		cancel()
		if err == nil && status.Leader != 0 {
			return
		}
		if s.Exited() {
			s.t.Fatalf("%s ended at start\n%s", s.Flavor, s.Tail(4000))
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s is not ready after 40 s: %v", s.Flavor, err)
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// Restart kills it as kill -9 does and starts it on the same data.
func (s *Store) Restart(extra ...string) {
	s.t.Helper()
	s.Kill()
	s.Launch(extra...)
	s.WaitReady()
}

// Conn is a bare gRPC connection: nothing between the test and the protocol.
func (s *Store) Conn() *grpc.ClientConn {
	s.t.Helper()
	creds := insecure.NewCredentials()
	if s.PKI != nil {
		creds = credentials.NewTLS(s.PKI.ClientTLS(s.t))
	}
	conn, err := grpc.NewClient("passthrough:///"+s.Endpoint, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Client is the official client.
func (s *Store) Client() *clientv3.Client {
	s.t.Helper()
	config := clientv3.Config{
		Endpoints: []string{s.ClientURL}, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
	}
	if s.PKI != nil {
		config.TLS = s.PKI.ClientTLS(s.t)
	}
	client, err := clientv3.New(config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// HTTP is a client for the HTTP side of the port.
func (s *Store) HTTP() *http.Client {
	transport := &http.Transport{}
	if s.PKI != nil {
		transport.TLSClientConfig = s.PKI.ClientTLS(s.t)
		// Without ALPN, as plain HTTP/1.1 clients come.
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// CtlArgs are etcdctl's flags to reach it.
func (s *Store) CtlArgs() []string {
	args := []string{"--endpoints=" + s.ClientURL}
	if p := s.PKI; p != nil {
		args = append(args, "--cacert="+p.Path("ca.crt"), "--cert="+p.Path("client.crt"),
			"--key="+p.Path("client.key"))
	}
	return args
}

// Ctl runs the real etcdctl against it.
func (s *Store) Ctl(args ...string) Output {
	s.t.Helper()
	return Run(s.t, nil, "", EtcdTool(s.t, "etcdctl"), append(s.CtlArgs(), args...)...)
}

// MustCtl is Ctl for what has to succeed.
func (s *Store) MustCtl(args ...string) string {
	s.t.Helper()
	return MustRun(s.t, nil, EtcdTool(s.t, "etcdctl"), append(s.CtlArgs(), args...)...)
}
