package interop

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/keepd/keepd/testing/interop/harness"
)

// kubeadm's calls, in its order and with its limits: a dial of 2 s, calls of 2 s, a try every 500 ms for
// two minutes at most.
type kubeadm struct {
	t       *testing.T
	pki     *harness.PKI
	members []*harness.Store
}

func (k *kubeadm) retry(what string, try func(ctx context.Context) error) {
	k.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		c, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := try(c)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// client dials what it knows, and takes the client URLs of the started voters for its endpoints.
func (k *kubeadm) client() *clientv3.Client {
	k.t.Helper()
	var endpoints []string
	for _, m := range k.members {
		if !m.Exited() {
			endpoints = append(endpoints, m.ClientURL)
		}
	}
	client := must(clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 2 * time.Second,
		TLS: k.pki.ClientTLS(k.t), Logger: zap.NewNop()}))(k.t)
	k.t.Cleanup(func() { _ = client.Close() })
	k.retry("sync", func(ctx context.Context) error { return client.Sync(ctx) })
	return client
}

func (k *kubeadm) list(client *clientv3.Client) []*pb.Member {
	k.t.Helper()
	var members []*pb.Member
	k.retry("member list", func(ctx context.Context) error {
		answer, err := client.MemberList(ctx)
		if err == nil {
			members = answer.Members
		}
		return err
	})
	return members
}

// healthy is its check before and after a change: more than half of the endpoints answer without errors.
func (k *kubeadm) healthy() {
	k.t.Helper()
	client := k.client()
	k.retry("health", func(ctx context.Context) error {
		good := 0
		for _, endpoint := range client.Endpoints() {
			if status, err := client.Status(ctx, endpoint); err == nil && len(status.Errors) == 0 {
				good++
			}
		}
		if good*2 <= len(client.Endpoints()) {
			return fmt.Errorf("%d of %v are healthy", good, client.Endpoints())
		}
		return nil
	})
}

func (k *kubeadm) prepare(flavor harness.Flavor, name string) *harness.Store {
	s := harness.Prepare(k.t, harness.Options{Flavor: flavor, Name: name, PKI: k.pki, Args: []string{
		"--feature-gates=InitialCorruptCheck=true", "--snapshot-count=10000", "--watch-progress-notify-interval=5s",
		fmt.Sprintf("--listen-metrics-urls=http://127.0.0.1:%d", harness.FreePort(k.t))}})
	return s
}

// join is `kubeadm join --control-plane`.
func (k *kubeadm) join(s *harness.Store) {
	k.t.Helper()
	k.healthy()
	client := k.client()
	var known []*pb.Member
	k.retry("member add", func(ctx context.Context) error {
		for _, m := range k.list(client) {
			if m.PeerURLs[0] == s.PeerURL {
				known = k.list(client)
				return nil
			}
		}
		answer, err := client.MemberAddAsLearner(ctx, []string{s.PeerURL})
		if err != nil {
			return err
		}
		known = answer.Members
		return nil
	})
	var id uint64
	var cluster []string
	for _, m := range known {
		name := m.Name
		if m.PeerURLs[0] == s.PeerURL {
			id, name = m.ID, s.Name
		}
		if name == "" {
			name = fmt.Sprintf("%x", m.ID)
		}
		cluster = append(cluster, name+"="+m.PeerURLs[0])
	}
	s.InitialCluster = strings.Join(cluster, ",")
	s.Launch("--initial-cluster-state=existing")
	k.retry("the member starts", func(context.Context) error {
		for _, m := range k.list(client) {
			if m.ID == id && m.Name != "" {
				return nil
			}
		}
		return fmt.Errorf("%x has no name", id)
	})
	k.retry("promote", func(ctx context.Context) error {
		for _, m := range k.list(client) {
			if m.ID == id && !m.IsLearner {
				return nil
			}
		}
		_, err := client.MemberPromote(ctx, id)
		return err
	})
	k.members = append(k.members, s)
	k.healthy()
}

// reset is `kubeadm reset` on the member's machine.
func (k *kubeadm) reset(s *harness.Store) {
	k.t.Helper()
	client := k.client()
	for _, m := range k.list(client) {
		if m.Name != s.Name {
			continue
		}
		k.retry("member remove", func(ctx context.Context) error {
			_, err := client.MemberRemove(ctx, m.ID)
			if err != nil && strings.Contains(err.Error(), "etcdserver: member not found") {
				return nil
			}
			return err
		})
	}
	// Of etcd a leader that removed itself sometimes ends with 1, and does not say why.
	if code := s.Wait(k.t, 30*time.Second); code != 0 && (code != 1 || s.Flavor.IsKeepd()) {
		k.t.Errorf("a removed member ends with %d", code)
	}
	if err := os.RemoveAll(s.DataDir); err != nil {
		k.t.Fatal(err)
	}
	for i, m := range k.members {
		if m == s {
			k.members = append(k.members[:i:i], k.members[i+1:]...)
			break
		}
	}
}

func TestKubeadm(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			k := &kubeadm{t: t, pki: harness.OpenSSL(t)}
			first := k.prepare(flavor, "cp1")
			first.Launch()
			first.WaitReady()
			k.members = append(k.members, first)
			a := newAPI(t, first)
			for i := range 100 {
				a.put(fmt.Sprint(i), "v")
			}
			k.join(k.prepare(flavor, "cp2"))
			k.join(k.prepare(flavor, "cp3"))
			equal(t, "members", len(k.list(k.client())), 3)

			// A machine is reset and joins anew, at the same URL.
			third := k.members[2]
			k.reset(third)
			again := *third
			k.join(&again)
			b := newAPI(t, &again)
			equal(t, "its data", b.count(), int64(100))
			a.put("100", "v")
			equal(t, "a linearizable read there", b.count(), int64(101))

			// The first machine leaves.
			k.reset(first)
			// etcd's answer may be lost with its leader.
			k.retry("a write", func(ctx context.Context) error {
				return second(b.kv.Put(ctx, &pb.PutRequest{Key: []byte("101")}))
			})
			equal(t, "members", len(k.list(k.client())), 2)
		})
	}
}

// count is the number of keys, by a linearizable read.
func (a *api) count() int64 {
	a.t.Helper()
	all := []byte{0}
	return must(a.kv.Range(ctx(a.t), &pb.RangeRequest{Key: all, RangeEnd: all, CountOnly: true}))(a.t).Count
}
