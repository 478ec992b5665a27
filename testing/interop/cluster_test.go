package interop

import (
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/keepd/keepd/testing/interop/harness"
)

// firstBytes is how etcd makes an id of what it hashes.
func firstBytes(content []byte) uint64 {
	sum := sha1.Sum(content)
	return binary.BigEndian.Uint64(sum[:8])
}

func TestMemberListAndIds(t *testing.T) {
	onEachWith(t, []string{"--initial-cluster-token=tok1"}, func(t *testing.T, a *api) {
		member := firstBytes([]byte(a.PeerURL + "tok1"))
		cluster := firstBytes(binary.BigEndian.AppendUint64(nil, member))
		for _, linearizable := range []bool{false, true} {
			r := &pb.MemberListRequest{Linearizable: linearizable}
			got := must(a.cluster.MemberList(ctx(t), r))(t)
			equal(t, "revision", got.Header.Revision, 0)
			equal(t, "cluster id", got.Header.ClusterId, cluster)
			equal(t, "member id", got.Header.MemberId, member)
			equal(t, "members", len(got.Members), 1)
			m := got.Members[0]
			equal(t, "id", m.ID, member)
			equal(t, "name", m.Name, "m1")
			equal(t, "peer urls", fmt.Sprint(m.PeerURLs), "["+a.PeerURL+"]")
			equal(t, "client urls", fmt.Sprint(m.ClientURLs), "["+a.ClientURL+"]")
			equal(t, "learner", m.IsLearner, false)
		}
		equal(t, "the same elsewhere", a.put("a", "").Header.MemberId, member)
	})
}

func TestMemberChangeErrors(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		self := a.status().Header.MemberId
		for _, urls := range [][]string{nil, {"localhost:1"}, {"http://h"}, {"http://h:1/path"}, {"ftp://h:1"}} {
			_, err := a.cluster.MemberAdd(ctx(t), &pb.MemberAddRequest{PeerURLs: urls})
			wantError(t, err, codes.InvalidArgument, "etcdserver: given member URLs are invalid")
		}
		_, err := a.cluster.MemberAdd(ctx(t), &pb.MemberAddRequest{PeerURLs: []string{a.PeerURL}})
		wantError(t, err, codes.FailedPrecondition, "etcdserver: Peer URLs already exists")
		_, err = a.cluster.MemberRemove(ctx(t), &pb.MemberRemoveRequest{ID: 4711})
		wantError(t, err, codes.NotFound, "etcdserver: member not found")
		_, err = a.cluster.MemberRemove(ctx(t), &pb.MemberRemoveRequest{ID: self})
		wantError(t, err, codes.Unknown,
			"etcdserver: re-configuration failed due to not enough started members")
		_, err = a.cluster.MemberPromote(ctx(t), &pb.MemberPromoteRequest{ID: self})
		wantError(t, err, codes.FailedPrecondition, "etcdserver: can only promote a learner member")
		_, err = a.cluster.MemberPromote(ctx(t), &pb.MemberPromoteRequest{ID: 4711})
		wantError(t, err, codes.NotFound, "etcdserver: member not found")
		_, err = a.cluster.MemberUpdate(ctx(t), &pb.MemberUpdateRequest{ID: 4711, PeerURLs: []string{"http://h:1"}})
		wantError(t, err, codes.NotFound, "etcdserver: member not found")

		learner := &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true}
		added := must(a.cluster.MemberAdd(ctx(t), learner))(t)
		equal(t, "learner", added.Member.IsLearner, true)
		equal(t, "members", len(added.Members), 2)
		equal(t, "no name yet", added.Member.Name, "")
		_, err = a.cluster.MemberAdd(ctx(t), &pb.MemberAddRequest{
			PeerURLs: []string{"http://127.0.0.1:2"}, IsLearner: true})
		wantError(t, err, codes.FailedPrecondition, "etcdserver: too many learner members in cluster")
		_, err = a.cluster.MemberPromote(ctx(t), &pb.MemberPromoteRequest{ID: added.Member.ID})
		wantError(t, err, codes.FailedPrecondition,
			"etcdserver: can only promote a learner member which is in sync with leader")
		a.put("still", "works")
		removed := must(a.cluster.MemberRemove(ctx(t), &pb.MemberRemoveRequest{ID: added.Member.ID}))(t)
		equal(t, "members", len(removed.Members), 1)
		_, err = a.cluster.MemberRemove(ctx(t), &pb.MemberRemoveRequest{ID: added.Member.ID})
		wantError(t, err, codes.NotFound, "etcdserver: member not found")
	})
}

func TestRequestMetadata(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		c := metadata.AppendToOutgoingContext(ctx(t), "hasleader", "true", "client-api-version", "3.7",
			"token", "ignored while auth is off", "traceparent", "00-1-2-01")
		must(a.kv.Put(c, &pb.PutRequest{Key: []byte("a")}))(t)
		must(a.kv.Range(c, &pb.RangeRequest{Key: []byte("a")}))(t)
		must(a.watch.Watch(c))(t)
		err := a.conn.Invoke(ctx(t), "/etcdserverpb.KV/NoSuchMethod", &pb.RangeRequest{}, &pb.RangeResponse{})
		if err == nil {
			t.Fatal("an unknown method has an answer")
		}
	})
}

func TestAuthIsOffAtFirst(t *testing.T) {
	onEachThatHas(t, harness.Users, func(t *testing.T, a *api) {
		status := must(a.auth.AuthStatus(ctx(t), &pb.AuthStatusRequest{}))(t)
		equal(t, "auth is off", status.Enabled, false)
		equal(t, "auth revision", status.AuthRevision, 1)
		_, err := a.auth.Authenticate(ctx(t), &pb.AuthenticateRequest{Name: "a", Password: "b"})
		wantError(t, err, codes.FailedPrecondition, "etcdserver: authentication is not enabled")
	})
}
