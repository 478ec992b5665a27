package interop

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/keepd/keepd/testing/interop/harness"
)

func (a *api) grant(id, ttl int64) *pb.LeaseGrantResponse {
	a.t.Helper()
	return must(a.lease.LeaseGrant(ctx(a.t), &pb.LeaseGrantRequest{ID: id, TTL: ttl}))(a.t)
}

func (a *api) putLeased(key string, lease int64) {
	a.t.Helper()
	r := &pb.PutRequest{Key: []byte(key), Value: []byte("leased"), Lease: lease}
	must(a.kv.Put(ctx(a.t), r))(a.t)
}

func (a *api) timeToLive(id int64) *pb.LeaseTimeToLiveResponse {
	a.t.Helper()
	return must(a.lease.LeaseTimeToLive(ctx(a.t), &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}))(a.t)
}

func TestLeaseGrantAndRevoke(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		chosen := a.grant(0, 60)
		equal(t, "a positive id", chosen.ID > 0, true)
		equal(t, "ttl", chosen.TTL, 60)
		equal(t, "no revision", chosen.Header.Revision, 1)
		equal(t, "short leases are prolonged", a.grant(77, 0).TTL, 2)
		equal(t, "negative id", a.grant(-9, 100).ID, -9)
		equal(t, "the longest", a.grant(78, 9_000_000_000).TTL, 9_000_000_000)
		_, err := a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{TTL: 9_000_000_001})
		wantError(t, err, codes.OutOfRange, "etcdserver: too large lease TTL")
		_, err = a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{ID: -9, TTL: 5})
		wantError(t, err, codes.FailedPrecondition, "etcdserver: lease already exists")

		w := a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("\x00"), RangeEnd: []byte("\x00")})
		for _, key := range []string{"c", "a", "b"} {
			a.putLeased(key, -9) // 2..4
		}
		w.events(3)
		revoked := must(a.lease.LeaseRevoke(ctx(t), &pb.LeaseRevokeRequest{ID: -9}))(t)
		equal(t, "one revision", revoked.Header.Revision, 5)
		equal(t, "keys in order", w.events(3), "DELETE:a=@5 DELETE:b=@5 DELETE:c=@5")
		empty := must(a.lease.LeaseRevoke(ctx(t), &pb.LeaseRevokeRequest{ID: 78}))(t)
		equal(t, "no keys, no revision", empty.Header.Revision, 5)
		_, err = a.lease.LeaseRevoke(ctx(t), &pb.LeaseRevokeRequest{ID: -9})
		wantError(t, err, codes.NotFound, errLeaseNotFound)
	})
}

func TestLeaseTimeToLiveAndList(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.grant(5, 100)
		a.putLeased("a", 5)
		a.putLeased("b", 5)
		got := a.timeToLive(5)
		equal(t, "granted", got.GrantedTTL, 100)
		equal(t, "remaining", got.TTL >= 97 && got.TTL <= 100, true)
		equal(t, "keys", len(got.Keys), 2)
		a.put("b", "no longer leased")
		equal(t, "a put without lease detaches", fmt.Sprintf("%s", a.timeToLive(5).Keys), "[a]")
		a.grant(6, 100)
		a.putLeased("a", 6)
		equal(t, "moved away", len(a.timeToLive(5).Keys), 0)
		equal(t, "moved here", len(a.timeToLive(6).Keys), 1)
		missing := a.timeToLive(404)
		equal(t, "missing", missing.TTL, -1)
		equal(t, "missing granted", missing.GrantedTTL, 0)
		equal(t, "missing id", missing.ID, 404)
		list := must(a.lease.LeaseLeases(ctx(t), &pb.LeaseLeasesRequest{}))(t)
		equal(t, "list", len(list.Leases), 2)
		a.Restart()
		equal(t, "after a restart", fmt.Sprintf("%s", a.timeToLive(6).Keys), "[a]")
		equal(t, "granted", a.timeToLive(6).GrantedTTL, 100)
	})
}

func TestLeaseKeepAlive(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.grant(5, 100)
		stream := must(a.lease.LeaseKeepAlive(ctx(t)))(t)
		for _, c := range []struct{ id, ttl int64 }{{5, 100}, {404, 0}, {0, 0}, {5, 100}} {
			if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: c.id}); err != nil {
				t.Fatal(err)
			}
			got := must(stream.Recv())(t)
			equal(t, "id", got.ID, c.id)
			equal(t, "ttl", got.TTL, c.ttl)
			equal(t, "revision", got.Header.Revision, 1)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after half-close: %v", err)
		}
	})
}

// Thousands of renewals at once on one stream, from a client that reads all the time and from one
// that reads when it has sent them all: each is answered, in order, and nobody else is held up.
func TestBurstsOfKeepAlives(t *testing.T) {
	const count = 60_000
	onEach(t, func(t *testing.T, a *api) {
		a.grant(5, 1000)
		for _, reads := range []string{"at once", "later"} {
			stream := must(a.lease.LeaseKeepAlive(ctx(t)))(t)
			sent := make(chan error, 1)
			go func() {
				var err error
				for i := 0; i < count && err == nil; i++ {
					// Every third lease does not exist.
					err = stream.Send(&pb.LeaseKeepAliveRequest{ID: 5 + 400*int64(i%3/2)})
				}
				sent <- err
			}()
			if reads == "later" {
				time.Sleep(time.Second)
				other := must(a.lease.LeaseKeepAlive(ctx(t)))(t)
				if err := other.Send(&pb.LeaseKeepAliveRequest{ID: 5}); err != nil {
					t.Fatal(err)
				}
				equal(t, "another stream", must(other.Recv())(t).TTL, 1000)
			}
			start := time.Now()
			for i := range count {
				got, err := stream.Recv()
				if err != nil {
					t.Fatalf("reading %s: the stream ended after %d of %d answers: %v", reads, i, count, err)
				}
				if want := 5 + 400*int64(i%3/2); got.ID != want || (got.TTL == 1000) != (want == 5) {
					t.Fatalf("reading %s: answer %d is %v", reads, i, got)
				}
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			t.Logf("%d renewals read %s took %v", count, reads, time.Since(start))
		}
	})
}

// The same from many streams of one connection, whose small frames come mixed.
func TestBurstsOnManyStreams(t *testing.T) {
	const streams, count = 300, 2_000
	onEach(t, func(t *testing.T, a *api) {
		a.grant(5, 1000)
		var clients sync.WaitGroup
		start := time.Now()
		for range streams {
			stream := must(a.lease.LeaseKeepAlive(ctx(t)))(t)
			clients.Go(func() {
				for range count {
					if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 5}); err != nil {
						t.Error(err)
						return
					}
				}
			})
			clients.Go(func() {
				time.Sleep(time.Second)
				for i := range count {
					if _, err := stream.Recv(); err != nil {
						t.Errorf("a stream ended after %d of %d answers: %v", i, count, err)
						return
					}
				}
			})
		}
		clients.Wait()
		t.Logf("%d renewals on %d streams took %v", streams*count, streams, time.Since(start))
	})
}

// Empty DATA frames mean nothing, however many come.
func TestEmptyFramesEndNothing(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		h := a.HTTP2()
		put := must(proto.Marshal(&pb.PutRequest{Key: []byte("a"), Value: []byte("1")}))(t)
		stream := must(h.Open(harness.GRPC("/etcdserverpb.KV/Put"), false))(t)
		for range 150 {
			if err := h.WriteData(stream, false, nil); err != nil {
				t.Fatal(err)
			}
			// So that they come one by one.
			time.Sleep(2 * time.Millisecond)
		}
		_ = h.Send(stream, harness.Message(put))
		equal(t, "code", h.Receive(stream, 5*time.Second).Fields["grpc-status"], "0")
	})
}

func TestLeaseExpiry(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		w := a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("z"), PrevKv: true})
		start := time.Now()
		a.grant(5, 2)
		a.grant(6, 2)
		a.putLeased("dies", 5)  // 2
		a.putLeased("lives", 6) // 3
		w.events(2)
		stop := make(chan struct{})
		defer close(stop)
		client := a.Client()
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(500 * time.Millisecond):
					_, _ = client.KeepAliveOnce(client.Ctx(), 6)
				}
			}
		}()
		equal(t, "expired", w.events(1), "DELETE:dies=@4(leased@2)")
		took := time.Since(start)
		if took < 2*time.Second || took > 8*time.Second {
			t.Errorf("a lease of 2 s expired after %s", took)
		}
		equal(t, "the renewed one lives", a.one("lives").Count, 1)
		equal(t, "gone", a.timeToLive(5).TTL, -1)
	})
}

func TestLeaseExpiresAlsoAfterARestart(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.grant(5, 3)
		a.putLeased("dies", 5)
		a.Restart()
		equal(t, "still there", a.one("dies").Count, 1)
		harness.Eventually(t, 12*time.Second, "the lease expires", func() bool {
			return a.one("dies").Count == 0
		})
		equal(t, "gone", a.timeToLive(5).TTL, -1)
	})
}
