package interop

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/keepd/keepd/testing/interop/harness"
)

// holdSilent opens connections that say nothing and holds them until the test ends.
func holdSilent(t *testing.T, address string, count int) {
	t.Helper()
	dialer := net.Dialer{Timeout: 5 * time.Second}
	for range count {
		// The kernel's queue may be full for a moment.
		if c, err := dialer.Dial("tcp", address); err == nil {
			t.Cleanup(func() { c.Close() })
		}
	}
}

// A client that comes while others hold connections open and say nothing is served at once.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	harness.OnEachWith(t, harness.Options{PKI: harness.OpenSSL(t)}, func(t *testing.T, s *harness.Store) {
		for range 4 {
			holdSilent(t, s.Endpoint, 300)
			start := time.Now()
			must(pb.NewMaintenanceClient(s.Conn()).Status(ctx(t), &pb.StatusRequest{}))(t)
			took := time.Since(start)
			t.Logf("a new client was answered after %v", took)
			// Before silent connections gave way it took ten seconds.
			if took > 4*time.Second {
				t.Errorf("a new client waited %v", took)
			}
		}
	})
}

// Idle connections take the descriptors that the limit allows, and none that the member needs.
func TestIdleConnectionsLeaveDescriptorsForFiles(t *testing.T) {
	pki := harness.OpenSSL(t)
	for name, options := range map[string]harness.Options{
		"plain": {OpenFiles: 1024}, "tls": {OpenFiles: 1024, PKI: pki},
	} {
		t.Run(name, func(t *testing.T) {
			harness.OnEachWith(t, options, func(t *testing.T, s *harness.Store) {
				a := newAPI(t, s)
				a.put("before", "1")
				holdSilent(t, s.Endpoint, 1500)
				if s.Flavor.IsKeepd() {
					// etcd lets nobody in until others leave.
					newAPI(t, s).put("new", "1")
					holdSilent(t, strings.SplitN(s.PeerURL, "://", 2)[1], 1500)
					newAPI(t, s).put("newer", "1")
				}
				// Enough for new files of the log.
				value := bytes.Repeat([]byte("x"), 1<<20)
				for i := range 80 {
					a.put(fmt.Sprintf("key%d", i), string(value))
				}
				if s.Exited() {
					t.Fatal("the member has ended")
				}
			})
		})
	}
}

// A port for metrics is open to everybody who reaches it: it must not cost the clients theirs.
func TestConnectionsForMetricsAreAShare(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		if !flavor.IsKeepd() {
			continue
		}
		t.Run(string(flavor), func(t *testing.T) {
			own := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
			s := harness.Start(t, harness.Options{Flavor: flavor, OpenFiles: 1024,
				Args: []string{"--listen-metrics-urls=http://" + own}})
			dialer := net.Dialer{Timeout: 5 * time.Second}
			for range 1200 {
				if c, err := dialer.Dial("tcp", own); err == nil {
					t.Cleanup(func() { c.Close() })
					// Said enough to be no silent one any more.
					_, _ = c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
				}
			}
			newAPI(t, s).put("a", "1")
		})
	}
}

func watchOf(key string) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte(key)}}}
}

// burst sends many requests at once on one stream, reads all the time, and counts the answers.
func burst(t *testing.T, stream pb.Watch_WatchClient, count int,
	request func(i int) *pb.WatchRequest, isAnswer func(*pb.WatchResponse) bool,
) time.Duration {
	t.Helper()
	start := time.Now()
	sent := make(chan error, 1)
	go func() {
		for i := range count {
			if err := stream.Send(request(i)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for answers := 0; answers < count; {
		response, err := stream.Recv()
		if err != nil {
			t.Fatalf("the stream ended after %d of %d answers: %v", answers, count, err)
		}
		if isAnswer(response) {
			answers++
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

// A client that reads all the time may ask for as many watches at once as it likes.
func TestBurstsOfWatchRequests(t *testing.T) {
	const count = 20_000
	onEach(t, func(t *testing.T, a *api) {
		stream := must(a.watch.Watch(ctx(t)))(t)
		took := burst(t, stream, count, func(int) *pb.WatchRequest { return watchOf("key") },
			func(r *pb.WatchResponse) bool { return r.Created && !r.Canceled })
		t.Logf("%d creates took %v", count, took)
		took = burst(t, stream, count, func(i int) *pb.WatchRequest {
			return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
				CancelRequest: &pb.WatchCancelRequest{WatchId: int64(i)}}}
		}, func(r *pb.WatchResponse) bool { return r.Canceled })
		t.Logf("%d cancels took %v", count, took)
		// Requests that get no answer keep nothing: there were more of them than may be under way.
		for range 3000 {
			if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
				CancelRequest: &pb.WatchCancelRequest{WatchId: 1 << 40}}}); err != nil {
				t.Fatal(err)
			}
		}
		burst(t, stream, 1, func(int) *pb.WatchRequest { return watchOf("key") },
			func(r *pb.WatchResponse) bool { return r.Created })
	})
}

// The watches of one client share a stream: cancelling most of them must leave the others alone.
func TestManyWatchesOfOneClientAreCancelledTogether(t *testing.T) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		client := s.Client()
		lasting := client.Watch(ctx(t), "lasting", clientv3.WithCreatedNotify())
		if r := <-lasting; !r.Created {
			t.Fatalf("not created: %+v", r)
		}
		together, cancel := context.WithCancel(ctx(t))
		var watches []clientv3.WatchChan
		for i := range 4000 {
			watches = append(watches, client.Watch(together, fmt.Sprintf("key%d", i)))
		}
		cancel()
		for _, watch := range watches {
			for r := range watch {
				if err := r.Err(); err != nil && !strings.Contains(err.Error(), "canceled") {
					t.Fatalf("a watch ended with %v", err)
				}
			}
		}
		must(client.Put(ctx(t), "lasting", "1"))(t)
		if r := <-lasting; len(r.Events) != 1 || r.Err() != nil {
			t.Fatalf("the other watch got %+v", r)
		}
		if log := s.Tail(1 << 20); strings.Contains(log, "does not keep up") {
			t.Fatal("the stream was given up")
		}
	})
}
