package interop

import (
	"errors"
	"fmt"
	"io"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
)

func (a *api) compact(revision int64, physical bool) error {
	_, err := a.kv.Compact(ctx(a.t), &pb.CompactionRequest{Revision: revision, Physical: physical})
	return err
}

func TestCompactErrors(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		wantError(t, a.compact(-1, false), codes.OutOfRange, errCompacted)
		equal(t, "compact 0 on a fresh store", a.compact(0, false), nil)
		wantError(t, a.compact(0, false), codes.OutOfRange, errCompacted)
		wantError(t, a.compact(2, false), codes.OutOfRange, errFuture)
		for i := range 5 {
			a.put("a", fmt.Sprint(i)) // 2..6
		}
		r := must(a.kv.Compact(ctx(t), &pb.CompactionRequest{Revision: 4}))(t)
		equal(t, "header", r.Header.Revision, 6)
		wantError(t, a.compact(4, false), codes.OutOfRange, errCompacted)
		wantError(t, a.compact(3, true), codes.OutOfRange, errCompacted)
		wantError(t, a.compact(7, true), codes.OutOfRange, errFuture)
		_, err := a.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("a"), Revision: 3})
		wantError(t, err, codes.OutOfRange, errCompacted)
		at := a.get(&pb.RangeRequest{Key: []byte("a"), Revision: 4})
		equal(t, "readable at the compacted revision", string(at.Kvs[0].Value), "2")
		equal(t, "to the newest", a.compact(6, true), nil)
		equal(t, "the newest value stays", string(a.one("a").Kvs[0].Value), "4")
	})
}

func TestCompactionAndRestartKeepWhatMustStay(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		a.put("kept", "1")     // 2
		a.put("changed", "1")  // 3
		a.put("changed", "2")  // 4
		a.put("deleted", "1")  // 5
		a.del("deleted")       // 6
		a.put("changed", "3")  // 7
		a.put("deleted2", "1") // 8
		a.del("deleted2")      // 9
		equal(t, "compact", a.compact(9, true), nil)
		check := func() {
			t.Helper()
			equal(t, "revision", a.revision(), 9)
			all := a.get(&pb.RangeRequest{Key: []byte("\x00"), RangeEnd: []byte("\x00")})
			equal(t, "keys", keys(all.Kvs), "changed kept")
			equal(t, "version", all.Kvs[0].Version, 3)
			equal(t, "create", all.Kvs[0].CreateRevision, 3)
			_, err := a.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("kept"), Revision: 8})
			wantError(t, err, codes.OutOfRange, errCompacted)
		}
		check()
		a.Restart()
		check()
		equal(t, "the next revision", a.put("n", "").Header.Revision, 10)
	})
}

// stream reads a whole range stream and checks its form: header, count and more only at the end.
func (a *api) stream(r *pb.RangeRequest) ([]*mvccpb.KeyValue, *pb.RangeResponse, error) {
	a.t.Helper()
	stream, err := a.kv.RangeStream(ctx(a.t), r)
	if err != nil {
		return nil, nil, err
	}
	var kvs []*mvccpb.KeyValue
	var last *pb.RangeResponse
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if last == nil || last.Header == nil {
				a.t.Error("the stream ended without a header")
			}
			return kvs, last, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if last != nil && (last.Header != nil || last.More || last.Count != 0) {
			a.t.Error("header, more or count before the last message")
		}
		last = message.RangeResponse
		kvs = append(kvs, last.Kvs...)
	}
}

func TestRangeStream(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		empty, last, err := a.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
		equal(t, "error", err, nil)
		equal(t, "nothing", len(empty), 0)
		equal(t, "revision", last.Header.Revision, 1)
		for i := range 127 {
			a.put(fmt.Sprintf("k%03d", i), fmt.Sprintf("v%d", i))
		}
		for _, c := range []struct {
			limit, revision int64
			kvs             int
			more            bool
			count           int64
		}{
			{0, 0, 127, false, 127}, {15, 0, 15, true, 127}, {127, 0, 127, false, 127},
			{0, 51, 50, false, 50}, {-1, 0, 127, false, 127},
		} {
			r := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: c.limit, Revision: c.revision}
			kvs, last, err := a.stream(r)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "kvs", len(kvs), c.kvs)
			equal(t, "more", last.More, c.more)
			equal(t, "count", last.Count, c.count)
			unary := a.get(r)
			equal(t, "same as unary", keys(kvs), keys(unary.Kvs))
			equal(t, "same value", string(kvs[9].Value), string(unary.Kvs[9].Value))
			if c.revision == 0 {
				equal(t, "revision", last.Header.Revision, 128)
			}
		}
		_, last, err = a.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), CountOnly: true})
		equal(t, "error", err, nil)
		equal(t, "count only", last.Count, 127)
		// A target without an order does not count as an order of one's own, and still sorts.
		a.put("s1", "z")
		a.put("s2", "y")
		sorted := &pb.RangeRequest{Key: []byte("s"), RangeEnd: []byte("t"), SortTarget: pb.RangeRequest_VALUE}
		kvs, _, err := a.stream(sorted)
		equal(t, "error", err, nil)
		equal(t, "sorted by value", keys(kvs), "s2 s1")
		kvs, _, err = a.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), KeysOnly: true})
		equal(t, "error", err, nil)
		equal(t, "keys only", len(kvs) == 127 && len(kvs[5].Value) == 0, true)

		for _, c := range []struct {
			r    *pb.RangeRequest
			code codes.Code
			text string
		}{
			{&pb.RangeRequest{}, codes.InvalidArgument, errEmptyKey},
			{&pb.RangeRequest{Key: []byte("k"), SortOrder: pb.RangeRequest_DESCEND}, codes.Unimplemented,
				"RangeStream does not support custom sort orders"},
			{&pb.RangeRequest{Key: []byte("k"), MinModRevision: 3}, codes.Unimplemented,
				"RangeStream does not support revision filters"},
			{&pb.RangeRequest{Key: []byte("k"), Revision: 999}, codes.OutOfRange, errFuture},
		} {
			_, _, err := a.stream(c.r)
			wantError(t, err, c.code, c.text)
		}
		equal(t, "compact", a.compact(100, false), nil)
		_, _, err = a.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Revision: 99})
		wantError(t, err, codes.OutOfRange, errCompacted)
	})
}

func TestRangeStreamOfLargeValues(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		value := make([]byte, 200_000)
		for i := range 40 {
			value[0] = byte(i)
			key := []byte(fmt.Sprintf("big%02d", i))
			must(a.kv.Put(ctx(t), &pb.PutRequest{Key: key, Value: value}))(t)
		}
		kvs, last, err := a.stream(&pb.RangeRequest{Key: []byte("big"), RangeEnd: []byte("bih")})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "count", last.Count, 40)
		for i, kv := range kvs {
			if len(kv.Value) != len(value) || kv.Value[0] != byte(i) {
				t.Errorf("value %d came back changed", i)
			}
		}
		equal(t, "unary", len(a.get(&pb.RangeRequest{Key: []byte("big"), RangeEnd: []byte("bih")}).Kvs), 40)
	})
}
