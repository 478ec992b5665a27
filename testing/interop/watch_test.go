package interop

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// watchStream is one bare watch stream whose messages are read with a deadline.
type watchStream struct {
	t        *testing.T
	stream   pb.Watch_WatchClient
	messages chan *pb.WatchResponse
}

func (a *api) watchStream() *watchStream {
	a.t.Helper()
	c, cancel := context.WithCancel(context.Background())
	a.t.Cleanup(cancel)
	w := &watchStream{a.t, must(a.watch.Watch(c))(a.t), make(chan *pb.WatchResponse, 10_000)}
	go func() {
		defer close(w.messages)
		for {
			message, err := w.stream.Recv()
			if err != nil {
				return
			}
			w.messages <- message
		}
	}()
	return w
}

func (w *watchStream) send(r *pb.WatchRequest) {
	w.t.Helper()
	if err := w.stream.Send(r); err != nil {
		w.t.Fatal(err)
	}
}

// create sends a create request and returns the answer to it.
func (w *watchStream) create(r *pb.WatchCreateRequest) *pb.WatchResponse {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	answer := w.next()
	if !answer.Created {
		w.t.Fatalf("not an answer to a create: %v", answer)
	}
	return answer
}

func (w *watchStream) cancel(id int64) {
	w.t.Helper()
	r := &pb.WatchCancelRequest{WatchId: id}
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: r}})
}

func (w *watchStream) progress() {
	w.t.Helper()
	r := &pb.WatchProgressRequest{}
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: r}})
}

func (w *watchStream) next() *pb.WatchResponse {
	w.t.Helper()
	select {
	case message, open := <-w.messages:
		if !open {
			w.t.Fatal("the watch stream ended")
		}
		return message
	case <-time.After(10 * time.Second):
		w.t.Fatal("no watch message within 10 s")
	}
	return nil
}

func (w *watchStream) silent(limit time.Duration) {
	w.t.Helper()
	select {
	case message := <-w.messages:
		w.t.Errorf("unexpected message: %v", message)
	case <-time.After(limit):
	}
}

// events collects until there are as many as wanted, and gives their short form.
func (w *watchStream) events(want int) string {
	w.t.Helper()
	var all []string
	for len(all) < want {
		message := w.next()
		if len(message.Events) == 0 {
			w.t.Fatalf("not an event: %v", message)
		}
		for _, event := range message.Events {
			all = append(all, brief(event))
		}
	}
	return strings.Join(all, " ")
}

func brief(event *mvccpb.Event) string {
	text := fmt.Sprintf("%s:%s=%s@%d", event.Type, event.Kv.Key, event.Kv.Value, event.Kv.ModRevision)
	if event.PrevKv != nil {
		text += fmt.Sprintf("(%s@%d)", event.PrevKv.Value, event.PrevKv.ModRevision)
	}
	return text
}

func TestWatchFromNowAndFromThePast(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("a", "1") // 2
		a.put("b", "1") // 3
		a.put("a", "2") // 4
		a.del("a")      // 5
		w := a.watchStream()
		created := w.create(&pb.WatchCreateRequest{Key: []byte("a")})
		equal(t, "id", created.WatchId, 0)
		equal(t, "created at", created.Header.Revision, 5)
		w.silent(300 * time.Millisecond)
		a.put("a", "3") // 6
		equal(t, "live", w.events(1), "PUT:a=3@6")

		w = a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("z"), StartRevision: 2})
		equal(t, "history", w.events(5), "PUT:a=1@2 PUT:b=1@3 PUT:a=2@4 DELETE:a=@5 PUT:a=3@6")
		a.put("c", "1") // 7
		equal(t, "then live", w.events(1), "PUT:c=1@7")

		w = a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 9})
		a.put("a", "8") // 8
		a.put("a", "9") // 9
		equal(t, "from the future", w.events(1), "PUT:a=9@9")

		w = a.watchStream()
		w.create(&pb.WatchCreateRequest{RangeEnd: []byte("\x00")})
		a.put("zzz", "1") // 10
		equal(t, "everything", w.events(1), "PUT:zzz=1@10")
	})
}

func TestWatchPrevKvAndFilters(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("a", "1") // 2
		w := a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true, StartRevision: 2})
		equal(t, "a creation has no previous", w.events(1), "PUT:a=1@2")
		a.put("a", "2") // 3
		equal(t, "update", w.events(1), "PUT:a=2@3(1@2)")
		a.del("a") // 4
		equal(t, "delete", w.events(1), "DELETE:a=@4(2@3)")
		a.put("a", "3") // 5
		equal(t, "a new creation", w.events(1), "PUT:a=3@5")

		late := a.watchStream()
		late.create(&pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true, StartRevision: 3})
		equal(t, "from history", late.events(3), "PUT:a=2@3(1@2) DELETE:a=@4(2@3) PUT:a=3@5")

		puts, dels := a.watchStream(), a.watchStream()
		noDelete := []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}
		noPut := []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}
		puts.create(&pb.WatchCreateRequest{Key: []byte("a"), Filters: noDelete})
		dels.create(&pb.WatchCreateRequest{Key: []byte("a"), Filters: noPut})
		a.put("a", "4") // 6
		a.del("a")      // 7
		a.put("a", "5") // 8
		equal(t, "no deletes", puts.events(2), "PUT:a=4@6 PUT:a=5@8")
		equal(t, "no puts", dels.events(1), "DELETE:a=@7")
		past := a.watchStream()
		past.create(&pb.WatchCreateRequest{Key: []byte("a"), Filters: noPut, StartRevision: 1})
		equal(t, "no puts in history", past.events(2), "DELETE:a=@4 DELETE:a=@7")
	})
}

func TestWatchRevisionsAreAtomicAndInOrderOfOperations(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("x", "0") // 2
		w := a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("z")})
		a.txn(&pb.TxnRequest{Success: ops(opPut("c", "1"), opDel("x", ""), opPut("a", "1"), opPut("b", "1"))})
		message := w.next()
		equal(t, "one message", len(message.Events), 4)
		equal(t, "its revision", message.Header.Revision, 3)
		equal(t, "order", brief(message.Events[0])+" "+brief(message.Events[1]), "PUT:c=1@3 DELETE:x=@3")
		r := &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z")}
		must(a.kv.DeleteRange(ctx(t), r))(t)
		equal(t, "deletes in key order", w.events(3), "DELETE:a=@4 DELETE:b=@4 DELETE:c=@4")
		del := w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 4})
		event := w.next().Events[0]
		equal(t, "id", del.WatchId, 1)
		equal(t, "create of a delete", event.Kv.CreateRevision, 0)
		equal(t, "version of a delete", event.Kv.Version, 0)
	})
}

func TestWatchCreateErrorsAndIds(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		w := a.watchStream()
		for i, want := range []int64{0, 1} {
			equal(t, fmt.Sprint("auto id ", i), w.create(&pb.WatchCreateRequest{Key: []byte("a")}).WatchId, want)
		}
		equal(t, "explicit", w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 3}).WatchId, 3)
		equal(t, "auto", w.create(&pb.WatchCreateRequest{Key: []byte("a")}).WatchId, 2)
		equal(t, "skips", w.create(&pb.WatchCreateRequest{Key: []byte("a")}).WatchId, 4)
		equal(t, "negative", w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: -7}).WatchId, -7)
		for _, c := range []struct {
			r      *pb.WatchCreateRequest
			reason string
		}{
			{&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 3},
				"mvcc: duplicate watch ID provided on the WatchStream"},
			{&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}, "mvcc: watcher range is empty"},
			{&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("b")}, "mvcc: watcher range is empty"},
			{&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: -1}, errCompacted},
		} {
			got := w.create(c.r)
			equal(t, "canceled", got.Canceled, true)
			equal(t, "id", got.WatchId, -1)
			equal(t, "reason", got.CancelReason, c.reason)
			equal(t, "compact revision", got.CompactRevision, 0)
			equal(t, "revision", got.Header.Revision, 1)
		}
		a.put("a", "1")
		ids := map[int64]bool{}
		for range 6 {
			ids[w.next().WatchId] = true
		}
		equal(t, "the stream and all watchers live", len(ids), 6)
	})
}

func TestWatchCancel(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		w := a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("a")})
		w.cancel(99)
		w.silent(300 * time.Millisecond)
		w.cancel(0)
		got := w.next()
		equal(t, "canceled", got.Canceled, true)
		equal(t, "id", got.WatchId, 0)
		equal(t, "reason", got.CancelReason, "")
		a.put("a", "1")
		w.silent(300 * time.Millisecond)
		equal(t, "the next id", w.create(&pb.WatchCreateRequest{Key: []byte("a")}).WatchId, 1)
		// A client that has no more to say still listens.
		if err := w.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		a.put("a", "2")
		equal(t, "after half-close", w.events(1), "PUT:a=2@3")
	})
}

func TestWatchOfCompactedHistory(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		for i := range 8 {
			a.put("a", fmt.Sprint(i)) // 2..9
		}
		live := a.watchStream()
		live.create(&pb.WatchCreateRequest{Key: []byte("a")})
		equal(t, "compact", a.compact(6, true), nil)
		w := a.watchStream()
		created := w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 5})
		equal(t, "created first", created.Canceled, false)
		got := w.next()
		equal(t, "then canceled", got.Canceled, true)
		equal(t, "compact revision", got.CompactRevision, 6)
		equal(t, "header revision", got.Header.Revision, 0)
		equal(t, "no reason", got.CancelReason, "")
		equal(t, "not created", got.Created, false)
		at := a.watchStream()
		at.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 6, PrevKv: true})
		// What was before the compacted revision is gone, so the first event has no previous value.
		equal(t, "from the compacted revision", at.events(4),
			"PUT:a=4@6 PUT:a=5@7(4@6) PUT:a=6@8(5@7) PUT:a=7@9(6@8)")
		a.put("a", "x")
		equal(t, "a live watcher is not touched", live.events(1), "PUT:a=x@10")
	})
}

func TestWatchProgressRequests(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		w := a.watchStream()
		w.progress()
		w.silent(300 * time.Millisecond)
		w.create(&pb.WatchCreateRequest{Key: []byte("a")})
		w.create(&pb.WatchCreateRequest{Key: []byte("b")})
		a.put("other", "1") // 2
		w.progress()
		got := w.next()
		equal(t, "id", got.WatchId, -1)
		equal(t, "revision", got.Header.Revision, 2)
		equal(t, "no events", len(got.Events), 0)
		w.silent(200 * time.Millisecond)
		a.put("a", "1") // 3
		w.progress()
		equal(t, "the event comes before the progress", w.events(1), "PUT:a=1@3")
		equal(t, "progress", w.next().Header.Revision, 3)
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 50})
		w.progress()
		w.silent(300 * time.Millisecond)
		w.cancel(2)
		equal(t, "canceled", w.next().Canceled, true)
		w.progress()
		equal(t, "again", w.next().WatchId, -1)
	})
}

func TestWatchProgressNotify(t *testing.T) {
	onEachWith(t, []string{"--watch-progress-notify-interval=400ms"}, func(t *testing.T, a *api) {
		w := a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true})
		a.put("other", "1") // 2
		deadline := time.After(5 * time.Second)
		for {
			got := w.next()
			if len(got.Events) != 0 || got.WatchId != 0 || got.Canceled {
				t.Fatalf("not a progress notification: %v", got)
			}
			if got.Header.Revision == 2 {
				break
			}
			select {
			case <-deadline:
				t.Fatal("progress does not reach the newest revision")
			default:
			}
		}
		quiet := a.watchStream()
		quiet.create(&pb.WatchCreateRequest{Key: []byte("a")})
		quiet.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 99, ProgressNotify: true})
		quiet.silent(time.Second)
	})
}

func TestWatchReplayOfLongHistory(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		const revisions = 1500
		for i := range revisions {
			a.put("a", fmt.Sprint(i))
		}
		w := a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 1, PrevKv: true})
		next := int64(2)
		for next < revisions+2 {
			message := w.next()
			equal(t, "header revision", message.Header.Revision, revisions+1)
			for _, event := range message.Events {
				equal(t, "revision", event.Kv.ModRevision, next)
				if next > 2 && (event.PrevKv == nil || event.PrevKv.ModRevision != next-1) {
					t.Fatalf("wrong previous at %d: %v", next, event.PrevKv)
				}
				next++
			}
		}
	})
}

func TestWatchFragments(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		value := strings.Repeat("x", 100<<10)
		for i := range 30 {
			a.put(fmt.Sprintf("f%02d", i), value)
		}
		w := a.watchStream()
		w.create(&pb.WatchCreateRequest{Key: []byte("f"), RangeEnd: []byte("g"), StartRevision: 2, Fragment: true})
		events, fragments := 0, 0
		for events < 30 {
			message := w.next()
			events += len(message.Events)
			equal(t, "all but the last are marked", message.Fragment, events < 30)
			fragments++
		}
		equal(t, "in pieces", fragments >= 2, true)

		whole := a.watchStream()
		whole.create(&pb.WatchCreateRequest{Key: []byte("f"), RangeEnd: []byte("g"), StartRevision: 2})
		equal(t, "in one piece without the option", len(whole.next().Events), 30)
	})
}

func TestWatchThroughTheOfficialClient(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		client := a.Client()
		c, cancel := context.WithCancel(context.Background())
		defer cancel()
		const revisions = 300
		channel := client.Watch(c, "w")
		for i := range revisions {
			must(client.Put(c, "w", fmt.Sprint(i)))(t)
			if i == revisions/2 {
				// The client resumes by itself, without a gap and without repeating.
				a.Restart()
			}
		}
		seen := 0
		for seen < revisions {
			select {
			case response := <-channel:
				if err := response.Err(); err != nil {
					t.Fatal(err)
				}
				for _, event := range response.Events {
					equal(t, "value", string(event.Kv.Value), fmt.Sprint(seen))
					seen++
				}
			case <-time.After(15 * time.Second):
				t.Fatalf("only %d of %d events", seen, revisions)
			}
		}
	})
}

// A member that is stopped in order breaks its streams in a way that clients take as a lost
// connection: a watch goes on when the member is back, and a lease is still renewed.
func TestWatchersOutliveACleanRestart(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		client := a.Client()
		c, cancel := context.WithCancel(context.Background())
		defer cancel()
		channel := client.Watch(c, "w")
		lease := must(client.Grant(c, 60))(t)
		renewals := must(client.KeepAlive(c, lease.ID))(t)
		must(client.Put(c, "w", "before"))(t)
		next := func() string {
			t.Helper()
			select {
			case response, open := <-channel:
				if !open || response.Err() != nil {
					t.Fatalf("the watch ended: %v", response.Err())
				}
				return brief((*mvccpb.Event)(response.Events[0]))
			case <-time.After(20 * time.Second):
				t.Fatal("no event")
			}
			return ""
		}
		equal(t, "event", next(), "PUT:w=before@2")
		a.Terminate(t)
		a.Launch()
		a.WaitReady()
		must(client.Put(c, "w", "after"))(t)
		equal(t, "event", next(), "PUT:w=after@3")
		for len(renewals) > 0 {
			if <-renewals == nil {
				t.Fatal("the lease is no longer renewed")
			}
		}
		must(client.KeepAliveOnce(c, lease.ID))(t)
	})
}

// Streams that never end by themselves do not hold up a stop; etcd waits seven seconds for them.
func TestAStopDoesNotWaitForOpenStreams(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		if !a.Flavor.IsKeepd() {
			// etcd cuts them after its request timeout: 7 s are nothing to compare with.
			return
		}
		a.grant(5, 100)
		renewals := must(a.lease.LeaseKeepAlive(ctx(t)))(t)
		equal(t, "sent", renewals.Send(&pb.LeaseKeepAliveRequest{ID: 5}), nil)
		equal(t, "renewed", must(renewals.Recv())(t).TTL, 100)
		request := &grpc_health_v1.HealthCheckRequest{}
		health := must(grpc_health_v1.NewHealthClient(a.conn).Watch(ctx(t), request))(t)
		must(health.Recv())(t)
		a.watchStream().create(&pb.WatchCreateRequest{Key: []byte("k")})

		begin := time.Now()
		a.Terminate(t)
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("the stop took %s", took)
		}
		_, err := renewals.Recv()
		wantError(t, err, codes.Unavailable, "etcdserver: server stopped")
		_, err = health.Recv()
		wantError(t, err, codes.Unavailable, "etcdserver: server stopped")
	})
}

func TestOversizeMessagesOfStreams(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		stream := must(a.watch.Watch(ctx(t)))(t)
		create := &pb.WatchCreateRequest{Key: make([]byte, 3<<20)}
		request := &pb.WatchRequest{
			RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}
		equal(t, "sent", stream.Send(request), nil)
		_, err := stream.Recv()
		wantError(t, err, codes.ResourceExhausted,
			"grpc: received message larger than max (3145738 vs. 2097152)")
	})
}
