package interop

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keepd/keepd/testing/interop/harness"
)

const (
	errNoSpace = "etcdserver: mvcc: database space exceeded"
	errCorrupt = "etcdserver: corrupt cluster"
)

func (a *api) status() *pb.StatusResponse {
	a.t.Helper()
	return must(a.maintenance.Status(ctx(a.t), &pb.StatusRequest{}))(a.t)
}

func (a *api) hashKV(revision int64) *pb.HashKVResponse {
	a.t.Helper()
	return must(a.maintenance.HashKV(ctx(a.t), &pb.HashKVRequest{Revision: revision}))(a.t)
}

func TestStatus(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		got := a.status()
		equal(t, "version", got.Version, "3.7.1")
		harness.Eventually(t, 10*time.Second, "the storage version is 3.7.0", func() bool {
			return a.status().StorageVersion == "3.7.0"
		})
		equal(t, "quota", got.DbSizeQuota, 2147483648)
		equal(t, "revision", got.Header.Revision, 1)
		equal(t, "leader", got.Leader, got.Header.MemberId)
		equal(t, "term", got.RaftTerm, got.Header.RaftTerm)
		equal(t, "learner", got.IsLearner, false)
		equal(t, "errors", len(got.Errors), 0)
		equal(t, "downgrade is there", got.DowngradeInfo != nil, true)
		a.put("a", "1")
		after := a.status()
		equal(t, "size", after.DbSizeInUse > 0 && after.DbSizeInUse <= after.DbSize, true)
		equal(t, "revision", after.Header.Revision, 2)
		equal(t, "index grows", after.RaftIndex > got.RaftIndex, true)
		equal(t, "applied", after.RaftAppliedIndex, after.RaftIndex)
		a.txn(&pb.TxnRequest{})
		a.txn(&pb.TxnRequest{Success: ops(opGet("a", ""))})
		equal(t, "reads are not in the log", a.status().RaftIndex, after.RaftIndex)

		health := grpc_health_v1.NewHealthClient(a.conn)
		check := must(health.Check(ctx(t), &grpc_health_v1.HealthCheckRequest{}))(t)
		equal(t, "health", check.Status, grpc_health_v1.HealthCheckResponse_SERVING)
		_, err := health.Check(ctx(t), &grpc_health_v1.HealthCheckRequest{Service: "no such service"})
		wantError(t, err, codes.NotFound, "unknown service")
	})
}

func TestAlarms(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		// Another member's alarm: keepd clears its own NOSPACE by itself when there is space.
		const member = 4711
		alarm := func(action pb.AlarmRequest_AlarmAction, id uint64, kind pb.AlarmType) []*pb.AlarmMember {
			t.Helper()
			r := &pb.AlarmRequest{Action: action, MemberID: id, Alarm: kind}
			return must(a.maintenance.Alarm(ctx(t), r))(t).Alarms
		}
		activate, deactivate := pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE
		a.put("k", "1")
		equal(t, "none", len(alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE)), 0)
		equal(t, "activating none", len(alarm(activate, member, pb.AlarmType_NONE)), 0)
		equal(t, "activated", len(alarm(activate, member, pb.AlarmType_NOSPACE)), 1)
		equal(t, "again", len(alarm(activate, member, pb.AlarmType_NOSPACE)), 1)
		_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("k")})
		wantError(t, err, codes.ResourceExhausted, errNoSpace)
		_, err = a.kv.Txn(ctx(t), &pb.TxnRequest{Success: ops(opGet("k", "")), Failure: ops(opPut("k", "2"))})
		wantError(t, err, codes.ResourceExhausted, errNoSpace)
		_, err = a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{TTL: 5})
		wantError(t, err, codes.ResourceExhausted, errNoSpace)
		equal(t, "reads work", a.one("k").Count, 1)
		equal(t, "deletes work", a.del("k").Deleted, 1)
		equal(t, "txns that delete work", a.txn(&pb.TxnRequest{Success: ops(opDel("k", ""))}).Succeeded, true)
		equal(t, "compaction works", a.compact(2, false), nil)
		if errs := a.status().Errors; len(errs) != 1 || !strings.Contains(errs[0], "NOSPACE") {
			t.Errorf("status errors: %q", errs)
		}
		equal(t, "0 is no wildcard", len(alarm(deactivate, 0, pb.AlarmType_NOSPACE)), 0)
		listed := alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE)
		equal(t, "listed", len(listed) == 1 && listed[0].MemberID == member, true)
		a.Restart()
		equal(t, "survives a restart", len(alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NOSPACE)), 1)
		equal(t, "disarmed", len(alarm(deactivate, member, pb.AlarmType_NOSPACE)), 1)
		a.put("k", "2")

		alarm(activate, member, pb.AlarmType_CORRUPT)
		for _, err := range []error{
			second(a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("k")})),
			second(a.kv.DeleteRange(ctx(t), &pb.DeleteRangeRequest{Key: []byte("k")})),
			second(a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{TTL: 5})),
			second(a.kv.Compact(ctx(t), &pb.CompactionRequest{Revision: 3})),
		} {
			wantError(t, err, codes.DataLoss, errCorrupt)
		}
		equal(t, "reads still work", a.one("k").Count, 1)
		equal(t, "disarmed", len(alarm(deactivate, member, pb.AlarmType_CORRUPT)), 1)
		a.put("k", "3")
	})
}

func second[T any](_ T, err error) error { return err }

func TestQuota(t *testing.T) {
	onEachWith(t, []string{"--quota-backend-bytes=16000000"}, func(t *testing.T, a *api) {
		value := bytes.Repeat([]byte("q"), 1<<20)
		var err error
		for i := 0; i < 64 && err == nil; i++ {
			r := &pb.PutRequest{Key: []byte(fmt.Sprintf("k%02d", i)), Value: value}
			_, err = a.kv.Put(ctx(t), r)
		}
		wantError(t, err, codes.ResourceExhausted, errNoSpace)
		r := &pb.AlarmRequest{}
		alarms := must(a.maintenance.Alarm(ctx(t), r))(t).Alarms
		equal(t, "the alarm is raised", len(alarms) == 1 && alarms[0].Alarm == pb.AlarmType_NOSPACE, true)
		// The way out, as an operator goes it.
		all := &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
		deleted := must(a.kv.DeleteRange(ctx(t), all))(t)
		equal(t, "deleted", deleted.Deleted > 5, true)
		equal(t, "compact", a.compact(deleted.Header.Revision, true), nil)
		must(a.maintenance.Defragment(ctx(t), &pb.DefragmentRequest{}))(t)
		r = &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarms[0].MemberID,
			Alarm: pb.AlarmType_NOSPACE}
		must(a.maintenance.Alarm(ctx(t), r))(t)
		harness.Eventually(t, 20*time.Second, "space is there again", func() bool {
			_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("k"), Value: value})
			return err == nil
		})
	})
}

func TestMaintenanceAnswersWithoutHeaders(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		defragment := must(a.maintenance.Defragment(ctx(t), &pb.DefragmentRequest{}))(t)
		equal(t, "defragment has no header", defragment.Header == nil, true)
		hash := must(a.maintenance.Hash(ctx(t), &pb.HashRequest{}))(t)
		equal(t, "hash", hash.Hash != 0, true)
	})
}

func TestMoveLeader(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		self := a.status().Header.MemberId
		move := must(a.maintenance.MoveLeader(ctx(t), &pb.MoveLeaderRequest{TargetID: self}))(t)
		equal(t, "move leader has no header", move.Header == nil, true)
		_, err := a.maintenance.MoveLeader(ctx(t), &pb.MoveLeaderRequest{TargetID: 12345})
		wantError(t, err, codes.FailedPrecondition, "etcdserver: bad leader transferee")
	})
}

func TestDowngradeValidation(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		validate := func(version string) error {
			_, err := a.maintenance.Downgrade(ctx(t), &pb.DowngradeRequest{Version: version})
			return err
		}
		harness.Eventually(t, 10*time.Second, "the cluster version is known", func() bool {
			return validate("3.6") == nil
		})
		wantError(t, validate("3.7"), codes.InvalidArgument, "etcdserver: invalid downgrade target version")
		wantError(t, validate("3.5"), codes.InvalidArgument, "etcdserver: invalid downgrade target version")
		wantError(t, validate("x"), codes.InvalidArgument, "etcdserver: wrong downgrade target version format")
		cancel := &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}
		got := must(a.maintenance.Downgrade(ctx(t), cancel))(t)
		equal(t, "cancel never fails", got.Version, "3.7")
	})
}

func TestHashKVVectors(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		type vector struct {
			revision int64
			hash     uint32
			compact  int64
			at       int64
		}
		check := func(vectors ...vector) {
			t.Helper()
			for _, v := range vectors {
				got := a.hashKV(v.revision)
				have := vector{v.revision, got.Hash, got.CompactRevision, got.HashRevision}
				equal(t, fmt.Sprintf("HashKV(%d)", v.revision), have, v)
			}
		}
		check(vector{0, 1084519789, -1, 1})
		a.put("a", "1")
		a.put("b", "1")
		a.put("a", "2")
		a.del("b")
		a.txn(&pb.TxnRequest{Success: ops(opPut("c", "1"), opDel("a", ""), opPut("d", "1"))})
		a.put("b", "9")
		check(vector{2, 2587454935, -1, 2}, vector{4, 3086679940, -1, 4}, vector{5, 1416966122, -1, 5},
			vector{6, 1383075984, -1, 6}, vector{7, 383623078, -1, 7}, vector{0, 383623078, -1, 7})
		_, err := a.maintenance.HashKV(ctx(t), &pb.HashKVRequest{Revision: 8})
		wantError(t, err, codes.OutOfRange, errFuture)
		equal(t, "compact", a.compact(5, true), nil)
		check(vector{5, 1416966122, -1, 5}, vector{6, 1558041080, 5, 6}, vector{7, 3152908602, 5, 7})
		_, err = a.maintenance.HashKV(ctx(t), &pb.HashKVRequest{Revision: 4})
		wantError(t, err, codes.OutOfRange, errCompacted)
		equal(t, "compact", a.compact(6, true), nil)
		check(vector{6, 1558041080, 5, 6}, vector{7, 1417476524, 6, 7})
		a.Restart()
		check(vector{7, 1417476524, 6, 7})
	})
}

// script applies the same pseudo-random operations to a store.
func script(t *testing.T, a *api, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	key := func() string { return fmt.Sprintf("key%02d", random.IntN(30)) }
	must(a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{ID: 1, TTL: 1000}))(t)
	must(a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{ID: -2, TTL: 1000}))(t)
	for i := range 300 {
		switch kind := random.IntN(20); {
		case kind < 10:
			value := strings.Repeat(fmt.Sprint(i), random.IntN(200))
			r := &pb.PutRequest{Key: []byte(key()), Value: []byte(value)}
			r.Lease = []int64{0, 0, 1, -2}[random.IntN(4)]
			must(a.kv.Put(ctx(t), r))(t)
		case kind < 13:
			a.del(key())
		case kind < 14:
			r := &pb.DeleteRangeRequest{Key: []byte(key()), RangeEnd: []byte(key())}
			must(a.kv.DeleteRange(ctx(t), r))(t)
		case kind < 19:
			one, other := fmt.Sprintf("key%02d", random.IntN(15)), fmt.Sprintf("key%02d", 15+random.IntN(15))
			check := compare(one, pb.Compare_VERSION, pb.Compare_GREATER, random.IntN(3))
			a.txn(&pb.TxnRequest{
				Compare: []*pb.Compare{check},
				Success: ops(opDel(one, ""), opPut(other, fmt.Sprint("t", i))),
				Failure: ops(opPut(one, fmt.Sprint("f", i)), opDel(other, "key99"), opGet("a", "z")),
			})
		default:
			_ = a.compact(a.revision()-int64(random.IntN(40)), true)
		}
	}
}

func TestHashKVIsTheSameAsOfEtcd(t *testing.T) {
	t.Parallel()
	var stores []*api
	for _, flavor := range harness.Flavors() {
		stores = append(stores, newAPI(t, harness.Start(t, harness.Options{Flavor: flavor})))
	}
	for _, a := range stores {
		script(t, a, 7)
	}
	reference := stores[0]
	newest := reference.revision()
	all := func(a *api) string {
		r := &pb.RangeRequest{Key: []byte("\x00"), RangeEnd: []byte("\x00")}
		return fmt.Sprint(a.get(r).Kvs)
	}
	for _, a := range stores[1:] {
		equal(t, "revision", a.revision(), newest)
		equal(t, "contents", all(a), all(reference))
	}
	for revision := int64(1); revision <= newest; revision++ {
		r := &pb.HashKVRequest{Revision: revision}
		want, wantErr := reference.maintenance.HashKV(ctx(t), r)
		for _, a := range stores[1:] {
			got, err := a.maintenance.HashKV(ctx(t), r)
			if fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Errorf("%s: HashKV(%d): %v, etcd: %v", a.Flavor, revision, err, wantErr)
			}
			if err == nil && wantErr == nil && (got.Hash != want.Hash || got.CompactRevision != want.CompactRevision) {
				t.Errorf("%s: HashKV(%d) is %d after compaction %d, etcd says %d after %d", a.Flavor,
					revision, got.Hash, got.CompactRevision, want.Hash, want.CompactRevision)
			}
		}
	}
}

func TestSnapshotStream(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		for i := range 50 {
			a.put(fmt.Sprintf("k%d", i), strings.Repeat("v", 5000))
		}
		stream := must(a.maintenance.Snapshot(ctx(t), &pb.SnapshotRequest{}))(t)
		var image bytes.Buffer
		var remaining uint64
		first := true
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "no header", message.Header == nil, true)
			equal(t, "version", message.Version, "3.7.0")
			if !first && message.RemainingBytes > remaining {
				t.Errorf("remaining bytes grow from %d to %d", remaining, message.RemainingBytes)
			}
			if message.RemainingBytes > 0 {
				equal(t, "blob size", len(message.Blob), 32<<10)
			}
			first, remaining = false, message.RemainingBytes
			image.Write(message.Blob)
		}
		equal(t, "nothing remains", remaining, 0)
		equal(t, "length", image.Len()%512, 32)
		body, trailer := image.Bytes()[:image.Len()-32], image.Bytes()[image.Len()-32:]
		hash := sha256.Sum256(body)
		equal(t, "trailer", bytes.Equal(hash[:], trailer), true)
	})
}
