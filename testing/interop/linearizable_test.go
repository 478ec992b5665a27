package interop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/keepd/keepd/testing/interop/harness"
)

type operation int

const (
	opRead operation = iota
	opWrite
	opDelete
	opSwap
)

// request is what a client asks of one key; an absent key has the value "".
type request struct {
	kind   operation
	key    string
	value  string
	expect string
}

// answer is what it got; an unknown answer may or may not have had its effect.
type answer struct {
	unknown  bool
	value    string
	swapped  bool
	revision int64
}

// register is the model: each key is a register with compare and swap.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range history {
			key := o.Input.(request).key
			byKey[key] = append(byKey[key], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(request), output.(answer)
		switch in.kind {
		case opRead:
			return out.unknown || out.value == state, state
		case opWrite:
			return true, in.value
		case opDelete:
			return true, ""
		default:
			matches := state == in.expect
			if !out.unknown && out.swapped != matches {
				return false, state
			}
			if matches {
				return true, in.value
			}
			return true, state
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// history collects operations of all clients.
type history struct {
	sync.Mutex
	start time.Time
	list  []porcupine.Operation
}

func (h *history) add(client int, in request, out answer, call, end time.Time) {
	h.Lock()
	defer h.Unlock()
	ended := end.Sub(h.start).Nanoseconds()
	if out.unknown {
		// It may take effect at any later time.
		ended = time.Hour.Nanoseconds()
	}
	h.list = append(h.list, porcupine.Operation{ClientId: client, Input: in, Output: out,
		Call: call.Sub(h.start).Nanoseconds(), Return: ended})
}

func ask(kv pb.KVClient, in request) answer {
	c, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	key := []byte(in.key)
	switch in.kind {
	case opRead:
		got, err := kv.Range(c, &pb.RangeRequest{Key: key})
		if err != nil {
			return answer{unknown: true}
		}
		out := answer{revision: got.Header.Revision}
		if len(got.Kvs) == 1 {
			out.value = string(got.Kvs[0].Value)
		}
		return out
	case opWrite:
		got, err := kv.Put(c, &pb.PutRequest{Key: key, Value: []byte(in.value)})
		if err != nil {
			return answer{unknown: true}
		}
		return answer{revision: got.Header.Revision}
	case opDelete:
		got, err := kv.DeleteRange(c, &pb.DeleteRangeRequest{Key: key})
		if err != nil {
			return answer{unknown: true}
		}
		return answer{revision: got.Header.Revision}
	default:
		check := compare(in.key, pb.Compare_VALUE, pb.Compare_EQUAL, in.expect)
		if in.expect == "" {
			check = compare(in.key, pb.Compare_VERSION, pb.Compare_EQUAL, 0)
		}
		got, err := kv.Txn(c, &pb.TxnRequest{
			Compare: []*pb.Compare{check}, Success: ops(opPut(in.key, in.value))})
		if err != nil {
			return answer{unknown: true}
		}
		return answer{swapped: got.Succeeded, revision: got.Header.Revision}
	}
}

// Clients of all members read and write while members are killed. Afterwards: the history is
// linearizable, revisions follow real time, watchers saw every acknowledged write once and in
// order, and all members hold the same.
func TestHistoriesUnderKillsAreLinearizable(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			var members []*api
			var urls []string
			const size = 3
			for _, s := range harness.StartCluster(t, size, harness.Options{Flavor: flavor}) {
				members = append(members, newAPI(t, s))
				urls = append(urls, s.ClientURL)
			}
			first := members[0].revision()
			watcher := must(clientv3.New(clientv3.Config{
				Endpoints: urls, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}))(t)
			defer watcher.Close()
			watching, stopWatching := context.WithCancel(context.Background())
			defer stopWatching()
			live := watcher.Watch(watching, "k", clientv3.WithPrefix(), clientv3.WithRev(first+1))

			h := &history{start: time.Now()}
			stop := make(chan struct{})
			var clients sync.WaitGroup
			for id := range 6 {
				kv := members[id%size].kv
				random := rand.New(rand.NewPCG(uint64(id), 5))
				clients.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						in := request{key: fmt.Sprintf("k%d", random.IntN(4)), value: fmt.Sprintf("%d-%d", id, i)}
						switch kind := random.IntN(10); {
						case kind < 4:
							in.kind = opRead
						case kind < 7:
							in.kind = opWrite
						case kind < 8:
							in.kind = opDelete
						default:
							in.kind = opSwap
							in.expect = ask(kv, request{kind: opRead, key: in.key}).value
						}
						call := time.Now()
						out := ask(kv, in)
						h.add(id, in, out, call, time.Now())
						if out.unknown {
							// A dead member answers at once; histories of errors prove nothing.
							time.Sleep(100 * time.Millisecond)
						}
						time.Sleep(2 * time.Millisecond)
					}
				})
			}
			random := rand.New(rand.NewPCG(9, 9))
			for range 4 {
				time.Sleep(1500 * time.Millisecond)
				victim := members[random.IntN(size)]
				victim.Kill()
				time.Sleep(700 * time.Millisecond)
				victim.Launch()
				victim.WaitReady()
			}
			time.Sleep(time.Second)
			close(stop)
			clients.Wait()
			events := replay(t, members, first)
			checkHistory(t, settle(h.list, events))
			checkMembers(t, members)
			checkEvents(t, h.list, events, live)
		})
	}
}

func checkHistory(t *testing.T, list []porcupine.Operation) {
	t.Helper()
	known := 0
	for _, o := range list {
		if !o.Output.(answer).unknown {
			known++
		}
	}
	if known < 500 {
		t.Errorf("only %d of %d operations were answered", known, len(list))
	}
	switch porcupine.CheckOperationsTimeout(register, list, 60*time.Second) {
	case porcupine.Illegal:
		t.Error("the history is not linearizable")
	case porcupine.Unknown:
		t.Error("the history could not be checked in a minute")
	}
	// Revisions follow real time: what was answered before a call has no higher revision than it.
	type moment struct {
		at       int64
		revision int64
		ends     bool
	}
	var moments []moment
	for _, o := range list {
		if out := o.Output.(answer); !out.unknown {
			moments = append(moments, moment{o.Return, out.revision, true}, moment{o.Call, out.revision, false})
		}
	}
	sort.Slice(moments, func(i, j int) bool { return moments[i].at < moments[j].at })
	highest := int64(0)
	for _, m := range moments {
		if m.ends {
			highest = max(highest, m.revision)
		} else if m.revision < highest {
			t.Errorf("an answer at revision %d to a call made after revision %d was answered", m.revision, highest)
			return
		}
	}
}

func checkMembers(t *testing.T, members []*api) {
	t.Helper()
	revision := members[0].revision()
	hash := members[0].hashKV(revision)
	for _, m := range members[1:] {
		m.revision()
		other := m.hashKV(revision)
		equal(t, "hash of "+m.Name, other.Hash, hash.Hash)
	}
}

// replay is the whole history of the keys, as a watch from the beginning tells it.
func replay(t *testing.T, members []*api, first int64) []*mvccpb.Event {
	t.Helper()
	last := members[len(members)/2].put("kend", "").Header.Revision
	w := members[len(members)-1].watchStream()
	w.create(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: first + 1})
	var events []*mvccpb.Event
	for revision := first; revision < last; {
		for _, event := range w.next().Events {
			if event.Kv.ModRevision <= revision {
				t.Errorf("event %s after revision %d", brief(event), revision)
			}
			revision = event.Kv.ModRevision
			events = append(events, event)
		}
	}
	return events
}

// settle decides what it can of the unknown answers, without which the search for an order takes
// forever: a read had no effect, and a write, whose value is unique, had none if no event tells it.
func settle(list []porcupine.Operation, events []*mvccpb.Event) []porcupine.Operation {
	written := map[string]bool{}
	for _, event := range events {
		written[string(event.Kv.Value)] = true
	}
	var settled []porcupine.Operation
	for _, o := range list {
		in, out := o.Input.(request), o.Output.(answer)
		if out.unknown && (in.kind == opRead || in.kind != opDelete && !written[in.value]) {
			continue
		}
		settled = append(settled, o)
	}
	return settled
}

func checkEvents(t *testing.T, list []porcupine.Operation, events []*mvccpb.Event, live clientv3.WatchChan) {
	t.Helper()
	values := map[int64]string{}
	for _, event := range events {
		values[event.Kv.ModRevision] = string(event.Kv.Key) + "=" + string(event.Kv.Value)
	}
	for _, o := range list {
		in, out := o.Input.(request), o.Output.(answer)
		if !out.unknown && (in.kind == opWrite || in.kind == opSwap && out.swapped) {
			if values[out.revision] != in.key+"="+in.value {
				t.Errorf("revision %d is %q, acknowledged was %s=%s", out.revision, values[out.revision], in.key, in.value)
			}
		}
	}
	seen := 0
	for seen < len(events) {
		select {
		case response, open := <-live:
			if !open || response.Err() != nil {
				t.Fatalf("the live watch ended: %v", response.Err())
			}
			for _, event := range response.Events {
				if seen < len(events) && brief((*mvccpb.Event)(event)) != brief(events[seen]) {
					t.Fatalf("event %d: live %s, replayed %s", seen, brief((*mvccpb.Event)(event)), brief(events[seen]))
				}
				seen++
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the live watch saw %d of %d events", seen, len(events))
		}
	}
}

// The check above must be able to fail.
func TestTheModelRefusesAStaleRead(t *testing.T) {
	write := func(value string, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: request{kind: opWrite, key: "k", value: value}, Output: answer{},
			Call: call, Return: end}
	}
	read := func(value string, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: request{kind: opRead, key: "k"}, Output: answer{value: value},
			Call: call, Return: end}
	}
	fresh := []porcupine.Operation{write("a", 0, 1), write("b", 2, 5), read("a", 3, 4), read("b", 6, 7)}
	equal(t, "while the write goes on the old value is fine", porcupine.CheckOperations(register, fresh), true)
	stale := []porcupine.Operation{write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)}
	equal(t, "afterwards it is not", porcupine.CheckOperations(register, stale), false)
	lost := []porcupine.Operation{write("a", 0, 1), read("", 2, 3)}
	equal(t, "a lost write", porcupine.CheckOperations(register, lost), false)
}
