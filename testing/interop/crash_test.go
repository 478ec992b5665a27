package interop

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/keepd/keepd/testing/interop/harness"
)

func TestAcknowledgedWritesSurviveKill9(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		acknowledged := map[string]int64{}
		for round := range 3 {
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; ; i++ {
					key := fmt.Sprintf("r%d-%05d", round, i)
					c, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					answer, err := a.kv.Put(c, &pb.PutRequest{Key: []byte(key), Value: []byte(key)})
					cancel()
					if err != nil {
						return
					}
					acknowledged[key] = answer.Header.Revision
				}
			}()
			time.Sleep(700 * time.Millisecond)
			a.Kill()
			<-done
			a.Launch()
			a.WaitReady()
		}
		if len(acknowledged) < 30 {
			t.Fatalf("only %d writes were acknowledged", len(acknowledged))
		}
		found := map[string]int64{}
		for _, kv := range a.everything(0) {
			equal(t, "value", string(kv.Value), string(kv.Key))
			found[string(kv.Key)] = kv.ModRevision
		}
		for key, revision := range acknowledged {
			equal(t, "revision of "+key, found[key], revision)
		}
	})
}

func TestAStoreEndsCleanlyOnSIGTERM(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("a", "1")
		code := a.Terminate(t)
		// etcd dies of the signal that it was sent, after its work is done; 0 is as good.
		if code != 0 && code != -1 {
			t.Errorf("exit code %d", code)
		}
		a.Launch()
		a.WaitReady()
		equal(t, "value", string(a.one("a").Kvs[0].Value), "1")
	})
}

func TestThreeMembers(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			var members []*api
			for _, s := range harness.StartCluster(t, 3, harness.Options{Flavor: flavor}) {
				members = append(members, newAPI(t, s))
			}
			var urls []string
			for _, m := range members {
				urls = append(urls, m.ClientURL)
			}
			client := must(clientv3.New(clientv3.Config{
				Endpoints: urls, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}))(t)
			defer client.Close()
			list := must(client.MemberList(ctx(t)))(t)
			equal(t, "members", len(list.Members), 3)
			for i := range 100 {
				must(client.Put(ctx(t), fmt.Sprintf("k%03d", i), fmt.Sprint(i)))(t)
			}
			for _, m := range members {
				equal(t, "a linearizable read anywhere", m.get(&pb.RangeRequest{
					Key: []byte("k"), RangeEnd: []byte("l")}).Count, 100)
			}
			leader := 0
			for i, m := range members {
				if status := m.status(); status.Leader == status.Header.MemberId {
					leader = i
				}
			}
			members[leader].Kill()
			acknowledged := 0
			deadline := time.Now().Add(20 * time.Second)
			for acknowledged < 50 && time.Now().Before(deadline) {
				c, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				_, err := client.Put(c, fmt.Sprintf("l%03d", acknowledged), "after")
				cancel()
				if err == nil {
					acknowledged++
				}
			}
			equal(t, "writes without the old leader", acknowledged, 50)
			members[leader].Launch()
			members[leader].WaitReady()
			equal(t, "it catches up", members[leader].get(&pb.RangeRequest{
				Key: []byte("l"), RangeEnd: []byte("m")}).Count, 50)
			revision := members[leader].revision()
			var hashes []uint32
			for _, m := range members {
				m.revision()
				hashes = append(hashes, m.hashKV(revision).Hash)
			}
			equal(t, "all members have the same", hashes[0] == hashes[1] && hashes[1] == hashes[2], true)

			target := members[(leader+1)%3]
			for _, m := range members {
				if status := m.status(); status.Leader == status.Header.MemberId && m != target {
					to := target.status().Header.MemberId
					must(m.maintenance.MoveLeader(ctx(t), &pb.MoveLeaderRequest{TargetID: to}))(t)
					equal(t, "leadership moved", target.status().Leader, to)
				}
			}
		})
	}
}

// A learner joins, catches up and is promoted, as `etcdctl member add --learner` users do it.
func TestAMemberJoins(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: flavor}))
			for i := range 500 {
				a.put(fmt.Sprintf("k%03d", i), "v")
			}
			s := harness.Prepare(t, harness.Options{Flavor: flavor, Name: "m2"})
			r := &pb.MemberAddRequest{PeerURLs: []string{s.PeerURL}, IsLearner: true}
			id := must(a.cluster.MemberAdd(ctx(t), r))(t).Member.ID
			s.InitialCluster = a.InitialCluster + ",m2=" + s.PeerURL
			s.Launch("--initial-cluster-state=existing")
			s.WaitReady()
			b := newAPI(t, s)
			_, err := b.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("k000")})
			wantError(t, err, 9, "etcdserver: rpc not supported for learner")
			equal(t, "is a learner", b.status().IsLearner, true)
			harness.Eventually(t, 20*time.Second, "the learner can be promoted", func() bool {
				_, err := a.cluster.MemberPromote(ctx(t), &pb.MemberPromoteRequest{ID: id})
				return err == nil
			})
			harness.Eventually(t, 10*time.Second, "the new member serves", func() bool {
				answer, err := b.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
				return err == nil && answer.Count == 500
			})
			equal(t, "same id", b.status().Header.MemberId, id)
			b.put("from", "m2")
			equal(t, "seen by the first", a.one("from").Count, 1)
		})
	}
}

// Kubernetes' own tests start the store with a single-dash flag, a unix socket and port 0.
func TestUnixSocketAndPortZero(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			dir := t.TempDir()
			socket := filepath.Join(dir, "etcd.sock")
			program, args := harness.EtcdTool(t, "etcd"), []string{}
			if flavor.IsKeepd() {
				program, args = harness.KeepdBin(), []string{"etcd"}
			}
			args = append(args, "-log-level", "warn", "--data-dir", filepath.Join(dir, "data"),
				"--listen-client-urls", "unix://"+socket, "--advertise-client-urls", "http://127.0.0.111:0",
				"--listen-peer-urls", "http://127.0.0.1:0")
			process := harness.StartProcess(t, filepath.Join(dir, "log"), nil, program, args...)
			harness.Eventually(t, 20*time.Second, "the socket is there", func() bool {
				if process.Exited() {
					t.Fatalf("ended:\n%s", process.Tail(4000))
				}
				conn, err := net.Dial("unix", socket)
				if err != nil {
					return false
				}
				conn.Close()
				return true
			})
			client := must(clientv3.New(clientv3.Config{
				Endpoints: []string{"unix://" + socket}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}))(t)
			defer client.Close()
			must(client.Put(ctx(t), "a", "1"))(t)
			equal(t, "value", string(must(client.Get(ctx(t), "a"))(t).Kvs[0].Value), "1")
		})
	}
}

func TestManyClientsCountTogether(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		const clients, increments = 16, 20
		a.put("counter", "0")
		var group sync.WaitGroup
		for range clients {
			client := a.Client()
			group.Go(func() {
				for range increments {
					for {
						got, err := client.Get(ctx(t), "counter")
						if err != nil {
							t.Error(err)
							return
						}
						var value int
						_, _ = fmt.Sscan(string(got.Kvs[0].Value), &value)
						unchanged := clientv3.Compare(clientv3.ModRevision("counter"), "=", got.Kvs[0].ModRevision)
						put := clientv3.OpPut("counter", fmt.Sprint(value+1))
						txn, err := client.Txn(ctx(t)).If(unchanged).Then(put).Commit()
						if err != nil {
							t.Error(err)
							return
						}
						if txn.Succeeded {
							break
						}
					}
				}
			})
		}
		group.Wait()
		equal(t, "counter", string(a.one("counter").Kvs[0].Value), fmt.Sprint(clients*increments))
		equal(t, "version", a.one("counter").Kvs[0].Version, clients*increments+1)
	})
}
