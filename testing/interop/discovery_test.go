package interop

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/keepd/keepd/testing/interop/harness"
)

const registry = "/_etcd/registry/"

// What members of both kinds write at a discovery service of either kind is the same, and with it they
// start.
func TestMembersRegisterAtADiscoveryService(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		harness.OnEach(t, func(t *testing.T, s *harness.Store) { registerAt(t, s) })
	})
	t.Run("TLS", func(t *testing.T) {
		pki := harness.OpenSSL(t)
		harness.OnEachWith(t, harness.Options{PKI: pki}, func(t *testing.T, s *harness.Store) {
			registerAt(t, s, "--discovery-insecure-transport=false", "--discovery-cacert="+pki.Path("ca.crt"),
				"--discovery-cert="+pki.Path("client.crt"), "--discovery-key="+pki.Path("client.key"))
		})
	})
}

func registerAt(t *testing.T, s *harness.Store, flags ...string) {
	service := s.Client()
	members := map[string]string{"etcd": harness.EtcdTool(t, "etcd")}
	if harness.KeepdBin() != "" {
		members["keepd"] = harness.KeepdBin()
	}
	peer := fmt.Sprintf("http://127.0.0.1:%d", harness.FreePort(t))
	written := map[string]string{}
	for name, program := range members {
		token := "cluster"
		_, err := service.Delete(ctx(t), registry+token, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := service.Put(ctx(t), registry+token+"/_config/size", "1"); err != nil {
			t.Fatal(err)
		}
		member := startDiscovered(t, program, s, token, peer, flags...)
		own := must(clientv3.New(clientv3.Config{Endpoints: []string{member.client}}))(t)
		harness.Eventually(t, 60*time.Second, name+" serves", func() bool {
			_, err := own.Put(ctx(t), "a", "b")
			return err == nil
		})
		own.Close()
		found := must(service.Get(ctx(t), registry+token, clientv3.WithPrefix()))(t)
		for _, kv := range found.Kvs {
			written[name] += fmt.Sprintf("%s %s\n", kv.Key, kv.Value)
		}
		member.Terminate(t)
	}
	for name, keys := range written {
		equal(t, name+" writes what etcd writes", keys, written["etcd"])
	}
}

type discovered struct {
	*harness.Process
	client string
}

func startDiscovered(t *testing.T, program string, s *harness.Store, token, peer string, flags ...string) discovered {
	t.Helper()
	dir := t.TempDir()
	client := fmt.Sprintf("http://127.0.0.1:%d", harness.FreePort(t))
	args := []string{
		"--name=m", "--data-dir=" + filepath.Join(dir, "data"), "--discovery-token=" + token,
		"--discovery-endpoints=" + s.ClientURL, "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
	}
	if program == harness.KeepdBin() {
		args = append([]string{"server"}, args...)
	}
	log := filepath.Join(dir, "log")
	return discovered{harness.StartProcess(t, log, nil, program, append(args, flags...)...), client}
}
