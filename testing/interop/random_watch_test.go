package interop

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Watchers of every kind, made and ended while keys change and history is compacted, are told the
// same by every store.
func TestRandomWatchersAreToldAlike(t *testing.T) {
	t.Parallel()
	const rounds = 25
	for _, seed := range []uint64{1, 2} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			var stores []*told
			for _, flavor := range harness.Flavors() {
				a := newAPI(t, harness.Start(t, harness.Options{Flavor: flavor}))
				stores = append(stores, &told{api: a, stream: a.watchStream(), by: map[int64][]string{}})
			}
			g := &generator{Rand: rand.New(rand.NewPCG(seed, seed))}
			for round := range rounds {
				for _, r := range g.watches(stores[0].revision()) {
					for _, s := range stores {
						s.stream.send(r)
					}
				}
				// Whether a compaction overtakes a watcher that catches up is a matter of time.
				for _, s := range stores {
					s.settle()
				}
				for range 12 {
					request := g.write()
					for _, s := range stores {
						s.ask(request)
					}
				}
				// On a busy machine something may still be on its way.
				unlike := "first"
				for range 20 {
					for _, s := range stores {
						s.settle()
					}
					if unlike = difference(stores); unlike == "" {
						break
					}
				}
				if unlike != "" {
					t.Fatalf("round %d, %s", round, unlike)
				}
			}
		})
	}
}

// difference shows a watcher that was not told the same by all stores.
func difference(stores []*told) string {
	for id, want := range stores[0].by {
		for _, s := range stores[1:] {
			got := s.by[id]
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				return fmt.Sprintf("watcher %d\n%s:\n%s\n%s:\n%s", id, stores[0].Flavor,
					strings.Join(want, "\n"), s.Flavor, strings.Join(got, "\n"))
			}
		}
	}
	return ""
}

// told is what a store has told each watcher of a stream.
type told struct {
	*api
	stream *watchStream
	by     map[int64][]string
}

// settle reads until nothing has come for a while.
func (s *told) settle() {
	for {
		select {
		case message, open := <-s.stream.messages:
			if !open {
				s.t.Fatalf("%s: the stream ended", s.Flavor)
			}
			s.note(message)
		case <-time.After(250 * time.Millisecond):
			return
		}
	}
}

func (s *told) note(message *pb.WatchResponse) {
	id := message.WatchId
	add := func(text string) { s.by[id] = append(s.by[id], text) }
	if message.Created || message.Canceled {
		add(fmt.Sprintf("created %t, canceled %t, compacted %d, reason %q", message.Created,
			message.Canceled, message.CompactRevision, message.CancelReason))
	}
	for _, event := range message.Events {
		text, err := prototext.MarshalOptions{Multiline: false}.Marshal(event)
		if err != nil {
			s.t.Fatal(err)
		}
		add(string(text))
	}
}

// write changes something, or compacts.
func (g *generator) write() proto.Message {
	switch n := g.IntN(20); {
	case n < 9:
		return g.put()
	case n < 13:
		return g.del()
	case n < 19:
		g.keeps = g.one(2)
		return g.txn(0)
	default:
		return &pb.CompactionRequest{Revision: 1 + int64(g.IntN(200))}
	}
}

// watches are a few requests for a stream.
func (g *generator) watches(revision int64) []*pb.WatchRequest {
	var list []*pb.WatchRequest
	for range g.IntN(4) {
		if g.one(5) {
			cancel := &pb.WatchCancelRequest{WatchId: int64(g.IntN(20))}
			// In front: whether it meets a new watcher before that is told of a compaction is a
			// matter of time.
			list = append([]*pb.WatchRequest{{
				RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: cancel}}}, list...)
			continue
		}
		create := &pb.WatchCreateRequest{Key: g.key(), RangeEnd: g.end(), PrevKv: g.one(2),
			Fragment: g.one(3)}
		switch g.IntN(6) {
		case 0:
			create.StartRevision = revision + int64(g.IntN(8))
		case 1, 2:
			create.StartRevision = 1 + g.Int64N(revision)
		case 3:
			create.StartRevision = g.number(2)
		}
		if g.one(4) {
			create.Filters = append(create.Filters, pb.WatchCreateRequest_FilterType(g.IntN(2)))
		}
		if g.one(8) {
			create.WatchId = int64(g.IntN(30))
		}
		list = append(list, &pb.WatchRequest{
			RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	}
	return list
}
