package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Every method, whatever decodes its messages.
var grpcMethods = []string{
	"/etcdserverpb.KV/Range", "/etcdserverpb.KV/RangeStream", "/etcdserverpb.KV/Put",
	"/etcdserverpb.KV/DeleteRange", "/etcdserverpb.KV/Txn", "/etcdserverpb.KV/Compact",
	"/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Lease/LeaseRevoke",
	"/etcdserverpb.Lease/LeaseKeepAlive", "/etcdserverpb.Lease/LeaseTimeToLive",
	"/etcdserverpb.Lease/LeaseLeases", "/etcdserverpb.Cluster/MemberAdd",
	"/etcdserverpb.Cluster/MemberRemove", "/etcdserverpb.Cluster/MemberUpdate",
	"/etcdserverpb.Cluster/MemberList", "/etcdserverpb.Cluster/MemberPromote",
	"/etcdserverpb.Maintenance/Alarm", "/etcdserverpb.Maintenance/Status",
	"/etcdserverpb.Maintenance/Defragment", "/etcdserverpb.Maintenance/Hash",
	"/etcdserverpb.Maintenance/HashKV", "/etcdserverpb.Maintenance/Snapshot",
	"/etcdserverpb.Maintenance/MoveLeader", "/etcdserverpb.Maintenance/Downgrade",
	"/etcdserverpb.Auth/AuthEnable", "/etcdserverpb.Auth/AuthDisable", "/etcdserverpb.Auth/AuthStatus",
	"/etcdserverpb.Auth/Authenticate", "/etcdserverpb.Auth/UserAdd", "/etcdserverpb.Auth/UserGet",
	"/etcdserverpb.Auth/UserList", "/etcdserverpb.Auth/UserDelete",
	"/etcdserverpb.Auth/UserChangePassword", "/etcdserverpb.Auth/UserGrantRole",
	"/etcdserverpb.Auth/UserRevokeRole", "/etcdserverpb.Auth/RoleAdd", "/etcdserverpb.Auth/RoleGet",
	"/etcdserverpb.Auth/RoleList", "/etcdserverpb.Auth/RoleDelete",
	"/etcdserverpb.Auth/RoleGrantPermission", "/etcdserverpb.Auth/RoleRevokePermission",
	"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch",
}

// announce opens streams that announce a large message each, send a little of it and then nothing.
func announce(t *testing.T, s *harness.Store, path string, streams, sent int) *harness.HTTP2 {
	t.Helper()
	h := deaf(s)
	message := make([]byte, 5+sent)
	binary.BigEndian.PutUint32(message[1:], 2_000_000)
	for range streams {
		stream, err := h.Open(harness.GRPC(path), false)
		for part := range slices.Chunk(message, 16_384) {
			if err == nil {
				err = h.WriteData(stream, false, part)
			}
		}
		if err != nil {
			t.Logf("the attack was ended: %v", err)
			break
		}
	}
	return h
}

// healthy puts over a connection of its own and tells how long the slowest hundredth took.
func healthy(t *testing.T, a *api, puts int) time.Duration {
	t.Helper()
	var took []time.Duration
	for i := range puts {
		began := time.Now()
		a.put("healthy", strconv.Itoa(i))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// A client that announces large messages and sends little of them takes no more memory than it
// sends, and others are served meanwhile. KEEPD_ATTACK=41000 sends so many streams over ten
// connections instead, and shows the figures beside etcd's.
func TestUnfinishedRequestsTakeLittleMemory(t *testing.T) {
	t.Parallel()
	attack, _ := strconv.Atoi(os.Getenv("KEEPD_ATTACK"))
	for _, flavor := range harness.Flavors() {
		if flavor == harness.KeepdSealed || (attack == 0 && !flavor.IsKeepd()) {
			continue
		}
		t.Run(string(flavor), func(t *testing.T) {
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: flavor}))
			methods, connections, streams, puts := grpcMethods, 1, 1500, 20
			if attack > 0 {
				methods, connections, streams, puts = grpcMethods[2:3], 10, attack/10, 1000
			}
			for _, path := range methods {
				var attackers []*harness.HTTP2
				for range connections {
					attackers = append(attackers, announce(t, a.Store, path, streams, 145))
				}
				p99 := healthy(t, a, puts)
				now, peak := a.Memory(t)
				t.Logf("%s: %d x %d streams: %d MiB, at most %d; a healthy client's p99 %v",
					path, connections, streams, now, peak, p99)
				if flavor.IsKeepd() && peak > 200 {
					t.Errorf("%s: %d MiB in memory", path, peak)
				}
				for _, h := range attackers {
					h.Close()
				}
			}
			time.Sleep(time.Duration(attack/10) * time.Millisecond)
			now, _ := a.Memory(t)
			t.Logf("afterwards: %d MiB", now)
		})
	}
}

// At its bound a connection's requests wait and are refused in the end, and when all connections are
// at theirs the greedy one gives way; a large request of somebody else comes through.
func TestUnfinishedBytesAreBounded(t *testing.T) {
	t.Parallel()
	if harness.KeepdBin() == "" {
		t.Skip("etcd takes what comes")
	}
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Keepd}))
	stop, end := context.WithCancel(context.Background())
	var attackers sync.WaitGroup
	var refused atomic.Int32
	for range 5 {
		client := &http.Client{Transport: &http2.Transport{
			AllowHTTP: true,
			DialTLSContext: func(ctx context.Context, _, addr string, _ *tls.Config) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			},
		}}
		for range 40 {
			attackers.Go(func() {
				body, writer := io.Pipe()
				defer writer.Close()
				message := make([]byte, 1_000_000)
				binary.BigEndian.PutUint32(message[1:], 2_000_000)
				go func() { _, _ = writer.Write(message) }()
				request := must(http.NewRequestWithContext(stop, "POST", a.ClientURL+"/etcdserverpb.KV/Put", body))(t)
				request.Header.Set("content-type", "application/grpc")
				response, err := client.Do(request)
				if err == nil && response.Header.Get("grpc-status") == "8" {
					refused.Add(1)
					response.Body.Close()
				}
			})
		}
	}
	defer attackers.Wait()
	defer end()
	harness.Eventually(t, 30*time.Second, "some are refused", func() bool { return refused.Load() > 0 })
	value := bytes.Repeat([]byte("v"), 1<<20)
	must(a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("large"), Value: value}))(t)
	now, peak := a.Memory(t)
	t.Logf("200 requests of 1 MB: %d MiB, at most %d, %d refused", now, peak, refused.Load())
	if peak > 300 {
		t.Errorf("%d MiB in memory", peak)
	}
}

// What HTTP/2 holds of streams that wait to be read is bounded for all connections together: the
// windows of thousands of them are more than there is memory.
func TestWindowsOfThousandsOfConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	if harness.KeepdBin() == "" {
		t.Skip("etcd takes what comes")
	}
	const connections, streams, sent = 3000, 2, 250_000
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Keepd}))
	attackers := make(chan *harness.HTTP2, connections)
	var attack sync.WaitGroup
	for range 50 {
		attack.Go(func() {
			for range connections / 50 {
				attackers <- announce(t, a.Store, "/etcdserverpb.KV/Put", streams, sent)
			}
		})
	}
	attack.Wait()
	p99 := healthy(t, a, 100)
	now, peak := a.Memory(t)
	t.Logf("%d MiB announced and sent: %d MiB in memory, at most %d; a healthy client's p99 %v",
		connections*streams*sent>>20, now, peak, p99)
	if peak > 500 {
		t.Errorf("%d MiB in memory", peak)
	}
	// Who waits gives up after some seconds; then a large request of somebody else comes through.
	value := bytes.Repeat([]byte("v"), 1<<20)
	harness.Eventually(t, 30*time.Second, "a large put", func() bool {
		_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("large"), Value: value})
		return err == nil
	})
	close(attackers)
	for h := range attackers {
		h.Close()
	}
}

// deaf opens a connection whose answers are read and thrown away.
func deaf(s *harness.Store) *harness.HTTP2 {
	h := s.HTTP2()
	// The windows of connection and streams are as large as they get from here on.
	for settled := false; !settled; {
		frame, err := h.ReadFrame()
		settings, ok := frame.(*http2.SettingsFrame)
		settled = err != nil || (ok && settings.IsAck())
		if ok && !settings.IsAck() {
			_ = h.WriteSettingsAck()
		}
	}
	go func() {
		for {
			if _, err := h.ReadFrame(); err != nil {
				return
			}
		}
	}()
	return h
}

// What a client gave up before it was proposed is not done.
func TestDeadlinesAreKept(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		past, cancel := context.WithTimeout(ctx(t), time.Nanosecond)
		defer cancel()
		_, err := a.kv.Put(past, &pb.PutRequest{Key: []byte("late"), Value: []byte("1")})
		wantError(t, err, codes.DeadlineExceeded, "context deadline exceeded")
		h := a.HTTP2()
		put := must(proto.Marshal(&pb.PutRequest{Key: []byte("late"), Value: []byte("2")}))(t)
		stream := must(h.Open(harness.GRPC("/etcdserverpb.KV/Put", field("grpc-timeout", "0m")), false))(t)
		_ = h.Send(stream, harness.Message(put))
		equal(t, "code", h.Receive(stream, 5*time.Second).Fields["grpc-status"], "4")
		// The message comes after the deadline.
		stream = must(h.Open(harness.GRPC("/etcdserverpb.KV/Put", field("grpc-timeout", "50m")), false))(t)
		time.Sleep(200 * time.Millisecond)
		_ = h.Send(stream, harness.Message(put))
		if answer := h.Receive(stream, 5*time.Second); answer.Fields["grpc-status"] == "0" {
			t.Errorf("a late put was done: %s", answer)
		}
		// A stream that never ends by itself.
		stream = must(h.Open(harness.GRPC("/etcdserverpb.Watch/Watch", field("grpc-timeout", "100m")), false))(t)
		if answer := h.Receive(stream, 5*time.Second); answer.Broken == "SILENCE" {
			t.Errorf("a watch outlived its deadline: %s", answer)
		}
		equal(t, "nothing was written", len(a.one("late").Kvs), 0)
	})
}

// Hundreds of requests of one client whose deadlines pass end no connection. A request whose deadline passes while others are in front of it fails with that, and is done or not
// done; one that was answered is done. Every kind of call says so in the same words.
func TestDeadlinesUnderLoad(t *testing.T) {
	const puts = 300
	onEach(t, func(t *testing.T, a *api) {
		load, end := context.WithCancel(ctx(t))
		var loading sync.WaitGroup
		value := bytes.Repeat([]byte("v"), 200_000)
		for i := range 8 {
			loading.Go(func() {
				for load.Err() == nil {
					_, _ = a.kv.Put(load, &pb.PutRequest{Key: fmt.Appendf(nil, "load%d", i), Value: value})
				}
			})
		}
		var outcomes sync.WaitGroup
		var answered sync.Map
		var late atomic.Int32
		for i := range puts {
			key := fmt.Sprintf("late%03d", i)
			outcomes.Go(func() {
				short, cancel := context.WithTimeout(ctx(t), time.Duration(i)*200*time.Microsecond)
				defer cancel()
				_, err := a.kv.Put(short, &pb.PutRequest{Key: []byte(key)})
				if err == nil {
					answered.Store(key, true)
					return
				}
				late.Add(1)
				// The client adds what it was waiting for. etcd's own clock may be first: then it resets the
				// stream, or answers that the request timed out.
				told := status.Convert(err)
				isLate := told.Code() == codes.DeadlineExceeded && strings.HasPrefix(told.Message(), "context deadline exceeded")
				isEtcds := !a.Flavor.IsKeepd() && (told.Code() == codes.DeadlineExceeded ||
					(told.Code() == codes.Unavailable && told.Message() == "etcdserver: request timed out"))
				if !isLate && !isEtcds {
					t.Errorf("%s: %v", key, err)
				}
			})
		}
		outcomes.Wait()
		end()
		loading.Wait()
		done := must(a.kv.Range(ctx(t), &pb.RangeRequest{Key: []byte("late"), RangeEnd: []byte("latf"), KeysOnly: true}))(t)
		present := map[string]bool{}
		for _, kv := range done.Kvs {
			present[string(kv.Key)] = true
			equal(t, string(kv.Key)+" is written once", kv.Version, 1)
		}
		answered.Range(func(key, _ any) bool {
			if !present[key.(string)] {
				t.Errorf("%s was acknowledged and is not there", key)
			}
			return true
		})
		if late.Load() == 0 {
			t.Error("no deadline passed: the load is too light to say anything")
		}
		t.Logf("%d of %d puts were late, %d are there", late.Load(), puts, len(present))

		past, cancel := context.WithTimeout(ctx(t), time.Nanosecond)
		defer cancel()
		for name, call := range map[string]func() error{
			"range": func() error { _, err := a.kv.Range(past, &pb.RangeRequest{Key: []byte("a")}); return err },
			"txn":   func() error { _, err := a.kv.Txn(past, &pb.TxnRequest{}); return err },
			"grant": func() error { _, err := a.lease.LeaseGrant(past, &pb.LeaseGrantRequest{TTL: 9}); return err },
			"compact": func() error {
				_, err := a.kv.Compact(past, &pb.CompactionRequest{Revision: 1})
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				wantError(t, call(), codes.DeadlineExceeded, "context deadline exceeded")
			})
		}
	})
}
