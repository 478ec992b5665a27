package interop

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"

	"github.com/keepd/keepd/testing/interop/harness"
)

func session(t *testing.T, client *clientv3.Client) *concurrency.Session {
	t.Helper()
	s := must(concurrency.NewSession(client, concurrency.WithTTL(5)))(t)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestMutex(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		var group sync.WaitGroup
		inside, entered := 0, 0
		for range 5 {
			mutex := concurrency.NewMutex(session(t, s.Client()), "/lock")
			group.Go(func() {
				for range 4 {
					if err := mutex.Lock(ctx(t)); err != nil {
						t.Error(err)
						return
					}
					inside++
					entered++
					if inside != 1 {
						t.Errorf("%d holders at once", inside)
					}
					time.Sleep(time.Millisecond)
					inside--
					if err := mutex.Unlock(ctx(t)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		group.Wait()
		equal(t, "entered", entered, 20)
		holder := concurrency.NewMutex(session(t, s.Client()), "/lock")
		equal(t, "lock", holder.Lock(ctx(t)), nil)
		other := concurrency.NewMutex(session(t, s.Client()), "/lock")
		equal(t, "try", other.TryLock(ctx(t)), concurrency.ErrLocked)
	})
}

// A holder that dies gives the lock back when its lease ends.
func TestMutexOfADeadHolder(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		client := s.Client()
		dying := must(concurrency.NewSession(client, concurrency.WithTTL(2)))(t)
		equal(t, "lock", concurrency.NewMutex(dying, "/lock").Lock(ctx(t)), nil)
		dying.Orphan()
		start := time.Now()
		next := concurrency.NewMutex(session(t, s.Client()), "/lock")
		equal(t, "the next one gets it", next.Lock(ctx(t)), nil)
		if took := time.Since(start); took < time.Second || took > 12*time.Second {
			t.Errorf("after %s", took)
		}
	})
}

func TestElection(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		one := concurrency.NewElection(session(t, s.Client()), "/election")
		two := concurrency.NewElection(session(t, s.Client()), "/election")
		c, cancel := context.WithCancel(context.Background())
		defer cancel()
		observed := two.Observe(c)
		equal(t, "campaign", one.Campaign(ctx(t), "one"), nil)
		next := func() string {
			t.Helper()
			select {
			case response := <-observed:
				return string(response.Kvs[0].Value)
			case <-time.After(10 * time.Second):
				t.Fatal("nothing observed")
			}
			return ""
		}
		equal(t, "observed", next(), "one")
		equal(t, "proclaim", one.Proclaim(ctx(t), "one again"), nil)
		equal(t, "observed", next(), "one again")
		won := make(chan error, 1)
		go func() { won <- two.Campaign(ctx(t), "two") }()
		time.Sleep(200 * time.Millisecond)
		equal(t, "resign", one.Resign(ctx(t)), nil)
		equal(t, "the other wins", <-won, nil)
		equal(t, "observed", next(), "two")
	})
}

func TestSoftwareTransactionalMemory(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		client := s.Client()
		for i := range 4 {
			must(client.Put(ctx(t), fmt.Sprintf("account%d", i), "100"))(t)
		}
		var group sync.WaitGroup
		for worker := range 4 {
			group.Go(func() {
				for i := range 15 {
					from, to := fmt.Sprintf("account%d", (worker+i)%4), fmt.Sprintf("account%d", (worker+i+1)%4)
					_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
						var a, b int
						_, _ = fmt.Sscan(stm.Get(from), &a)
						_, _ = fmt.Sscan(stm.Get(to), &b)
						stm.Put(from, fmt.Sprint(a-1))
						stm.Put(to, fmt.Sprint(b+1))
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		sum := 0
		for _, kv := range must(client.Get(ctx(t), "account", clientv3.WithPrefix()))(t).Kvs {
			var value int
			_, _ = fmt.Sscan(string(kv.Value), &value)
			sum += value
		}
		equal(t, "nothing is lost", sum, 400)
	})
}

func TestWrappedClients(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		client := s.Client()
		inner := namespace.NewKV(client.KV, "ns/")
		must(inner.Put(ctx(t), "a", "1"))(t)
		equal(t, "namespace", string(must(client.Get(ctx(t), "ns/a"))(t).Kvs[0].Value), "1")
		cached, stop := func() (clientv3.KV, func()) {
			kv, stop, err := leasing.NewKV(client, "leasing/")
			if err != nil {
				t.Fatal(err)
			}
			return kv, stop
		}()
		defer stop()
		for range 3 {
			equal(t, "leasing", string(must(cached.Get(ctx(t), "ns/a"))(t).Kvs[0].Value), "1")
		}
		must(cached.Put(ctx(t), "ns/a", "2"))(t)
		ordered := ordering.NewKV(client.KV, ordering.NewOrderViolationSwitchEndpointClosure(client))
		equal(t, "ordering", string(must(ordered.Get(ctx(t), "ns/a"))(t).Kvs[0].Value), "2")
	})
}

func TestClientKeepsLeasesAlive(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		client := s.Client()
		lease := must(client.Grant(ctx(t), 2))(t)
		must(client.Put(ctx(t), "a", "1", clientv3.WithLease(lease.ID)))(t)
		c, cancel := context.WithCancel(context.Background())
		answers := must(client.KeepAlive(c, lease.ID))(t)
		deadline := time.After(5 * time.Second)
		renewals := 0
		for waiting := true; waiting; {
			select {
			case answer, open := <-answers:
				if !open || answer.TTL != 2 {
					t.Fatal("the lease was lost")
				}
				renewals++
			case <-deadline:
				waiting = false
			}
		}
		equal(t, "renewed", renewals >= 3, true)
		equal(t, "alive", must(client.Get(ctx(t), "a"))(t).Count, 1)
		cancel()
		harness.Eventually(t, 10*time.Second, "it ends when nobody renews it", func() bool {
			return must(client.Get(ctx(t), "a"))(t).Count == 0
		})
	})
}
