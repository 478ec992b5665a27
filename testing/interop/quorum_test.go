package interop

import (
	"encoding/json"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keepd/keepd/testing/interop/harness"
)

// onEachThree runs a test against three members of each flavor.
func onEachThree(t *testing.T, test func(t *testing.T, members []*api)) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			t.Parallel()
			var members []*api
			for _, s := range harness.StartCluster(t, 3, harness.Options{Flavor: flavor}) {
				members = append(members, newAPI(t, s))
			}
			test(t, members)
		})
	}
}

// leaderOf is the number of the member that leads.
func leaderOf(t *testing.T, members []*api) int {
	t.Helper()
	found := -1
	harness.Eventually(t, 20*time.Second, "the members agree on a leader", func() bool {
		for i, m := range members {
			status := m.status()
			if status.Leader == status.Header.MemberId {
				found = i
			}
		}
		for _, m := range members {
			if found < 0 || m.status().Leader != members[found].status().Header.MemberId {
				return false
			}
		}
		return true
	})
	return found
}

// A member whose cluster has lost its quorum: what it still answers, and in which words it refuses.
func TestAMemberWithoutQuorum(t *testing.T) {
	onEachThree(t, func(t *testing.T, members []*api) {
		members[0].put("a", "1")
		leader := leaderOf(t, members)
		a := members[(leader+1)%3]
		harness.Eventually(t, 10*time.Second, "it has the write", func() bool {
			r := &pb.RangeRequest{Key: []byte("a"), Serializable: true}
			return must(a.kv.Range(ctx(t), r))(t).Count == 1
		})
		for _, m := range members {
			if m != a {
				m.Kill()
			}
		}
		harness.Eventually(t, 20*time.Second, "it knows no leader", func() bool { return a.status().Leader == 0 })

		equal(t, "status", fmt.Sprint(a.status().Errors), "[etcdserver: no leader]")
		serializable := &pb.RangeRequest{Key: []byte("a"), Serializable: true}
		equal(t, "a serializable read", must(a.kv.Range(ctx(t), serializable))(t).Count, int64(1))
		list := must(a.cluster.MemberList(ctx(t), &pb.MemberListRequest{}))(t)
		equal(t, "members", len(list.Members), 3)

		var waiting sync.WaitGroup
		both := func(what string, ask func() error, code codes.Code, text string) {
			waiting.Add(1)
			go func() {
				defer waiting.Done()
				err := ask()
				if status.Code(err) != code || status.Convert(err).Message() != text {
					t.Errorf("%s: got %v, want %s %q", what, err, code, text)
				}
			}()
		}
		key := []byte("a")
		both("a linearizable read", func() error {
			return second(a.kv.Range(ctx(t), &pb.RangeRequest{Key: key}))
		}, codes.Unavailable, "etcdserver: request timed out")
		both("a put", func() error {
			return second(a.kv.Put(ctx(t), &pb.PutRequest{Key: key}))
		}, codes.DeadlineExceeded, "context deadline exceeded")
		both("a grant", func() error {
			return second(a.lease.LeaseGrant(ctx(t), &pb.LeaseGrantRequest{TTL: 10}))
		}, codes.DeadlineExceeded, "context deadline exceeded")
		both("a linearizable member list", func() error {
			return second(a.cluster.MemberList(ctx(t), &pb.MemberListRequest{Linearizable: true}))
		}, codes.Unavailable, "etcdserver: request timed out")
		both("a put that wants a leader", func() error {
			c := metadata.AppendToOutgoingContext(ctx(t), "hasleader", "true")
			return second(a.kv.Put(c, &pb.PutRequest{Key: key}))
		}, codes.Unavailable, "etcdserver: no leader")
		both("a watch that wants a leader", func() error {
			c := metadata.AppendToOutgoingContext(ctx(t), "hasleader", "true")
			watch := must(a.watch.Watch(c))(t)
			return second(watch.Recv())
		}, codes.Unavailable, "etcdserver: no leader")
		both("a move of the leader", func() error {
			return second(a.maintenance.MoveLeader(ctx(t), &pb.MoveLeaderRequest{TargetID: 1}))
		}, codes.FailedPrecondition, "etcdserver: not leader")
		waiting.Wait()

		for path, want := range map[string]string{
			"/health":                   "503 {\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n",
			"/health?serializable=true": "200 {\"health\":\"true\",\"reason\":\"\"}",
			"/livez":                    "200 ok\n",
			"/readyz/serializable_read": "200 ok\n",
			"/readyz/linearizable_read": "503 [-]linearizable_read failed: etcdserver: request timed out\n\n",
		} {
			waiting.Add(1)
			go func() {
				defer waiting.Done()
				code, body := a.http("GET", path, "")
				equal(t, path, fmt.Sprint(code, " ", body), want)
			}()
		}
		waiting.Wait()

		for _, m := range members {
			if m != a {
				m.Launch()
			}
		}
		harness.Eventually(t, 30*time.Second, "writes go on", func() bool {
			_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: key})
			return err == nil
		})
	})
}

// MoveLeader and etcdctl's commands for a whole cluster, by etcd's program and keepd's own.
func TestCommandsForAWholeCluster(t *testing.T) {
	onEachThree(t, func(t *testing.T, members []*api) {
		programs := []program{realTool(t, "etcdctl")}
		if harness.KeepdBin() != "" {
			programs = append(programs, ownTool("etcdctl"))
		}
		for _, ctl := range programs {
			leader := leaderOf(t, members)
			follower := members[(leader+1)%3]
			run := func(at *api, args ...string) harness.Output {
				t.Helper()
				return ctl.run(t, "", append(at.CtlArgs(), args...)...)
			}
			from, to := members[leader].status().Header.MemberId, follower.status().Header.MemberId
			out := run(members[leader], "move-leader", fmt.Sprintf("%x", to))
			equal(t, "move-leader", out.Stdout, fmt.Sprintf("Leadership transferred from %x to %x\n", from, to))
			equal(t, "the leader", members[leaderOf(t, members)].status().Header.MemberId, to)
			out = run(members[leader], "move-leader", fmt.Sprintf("%x", from))
			equal(t, "move-leader at a follower", out.Code, 128)
			equal(t, "move-leader at a follower", lastError(out.Stderr),
				fmt.Sprintf("Error: no leader endpoint given at [%s]", members[leader].ClientURL))

			out = run(follower, "endpoint", "health", "--cluster")
			equal(t, "healthy", strings.Count(out.Stdout+out.Stderr, "is healthy"), 3)
			var found []struct {
				Endpoint string
				Status   struct{ Leader uint64 }
			}
			out = run(follower, "endpoint", "status", "--cluster", "-w", "json")
			if err := json.Unmarshal([]byte(out.Stdout), &found); err != nil {
				t.Fatalf("%v in %s", err, out.Stdout)
			}
			var endpoints, want []string
			for _, m := range members {
				want = append(want, m.ClientURL)
			}
			for _, it := range found {
				endpoints = append(endpoints, it.Endpoint)
				equal(t, "leader", it.Status.Leader, to)
			}
			sort.Strings(endpoints)
			sort.Strings(want)
			equal(t, "endpoints", fmt.Sprint(endpoints), fmt.Sprint(want))
			out = run(follower, "endpoint", "hashkv", "--cluster")
			hashes := map[string]bool{}
			for line := range strings.Lines(out.Stdout) {
				_, hash, _ := strings.Cut(strings.TrimSpace(line), ", ")
				hashes[hash] = true
			}
			equal(t, "one hash in "+out.Stdout, len(hashes), 1)
			equal(t, "members", strings.Count(run(follower, "member", "list").Stdout, ", started, "), 3)
		}
	})
}

// The metrics that dashboards and alerts ask about the other members: names, labels, types.
func TestMetricsOfPeers(t *testing.T) {
	onEachThree(t, func(t *testing.T, members []*api) {
		for i := range 20 {
			members[0].put(fmt.Sprint(i), strings.Repeat("v", 1000))
		}
		leader := leaderOf(t, members)
		a, id := members[leader], map[string]string{}
		for _, m := range members {
			id[m.Name] = fmt.Sprintf("%x", m.status().Header.MemberId)
		}
		page := func(m *api) string {
			_, body := m.http("GET", "/metrics", "")
			return body
		}
		value := func(m *api, series string) string {
			found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (.*)$`).FindStringSubmatch(page(m))
			if found == nil {
				return "absent"
			}
			return found[1]
		}
		for _, family := range []string{
			"etcd_network_active_peers gauge", "etcd_network_known_peers gauge",
			"etcd_network_peer_sent_bytes_total counter", "etcd_network_peer_received_bytes_total counter",
			"etcd_server_heartbeat_send_failures_total counter",
			"etcd_server_slow_read_indexes_total counter", "etcd_server_read_indexes_failed_total counter",
			"etcd_server_learner_promote_successes counter", "etcd_server_snapshot_apply_in_progress_total gauge",
		} {
			if !strings.Contains(page(a), "# TYPE "+family+"\n") {
				t.Errorf("there is no %s", family)
			}
		}
		own := id[a.Name]
		equal(t, "known", value(a, fmt.Sprintf(`etcd_network_known_peers{Local="%s",Remote="%s"}`, own, own)), "1")
		for _, m := range members {
			other := id[m.Name]
			if m == a {
				continue
			}
			for _, name := range []string{"active", "known"} {
				series := fmt.Sprintf(`etcd_network_%s_peers{Local="%s",Remote="%s"}`, name, own, other)
				equal(t, series, value(a, series), "1")
			}
			harness.Eventually(t, 60*time.Second, "round trips, and bytes both ways", func() bool {
				return value(a, `etcd_network_peer_round_trip_time_seconds_count{To="`+other+`"}`) != "absent" &&
					value(a, `etcd_network_peer_sent_bytes_total{To="`+other+`"}`) > "0" &&
					value(a, `etcd_network_peer_received_bytes_total{From="`+other+`"}`) > "0"
			})
			equal(t, "is leader", value(m, "etcd_server_is_leader"), "0")
			equal(t, "has leader", value(m, "etcd_server_has_leader"), "1")
		}
		equal(t, "is leader", value(a, "etcd_server_is_leader"), "1")

		gone := members[(leader+1)%3]
		gone.Kill()
		labels := fmt.Sprintf(`{Local="%s",Remote="%s"}`, own, id[gone.Name])
		harness.Eventually(t, 20*time.Second, "it is missed", func() bool {
			return value(a, "etcd_network_active_peers"+labels) == "0" &&
				value(a, "etcd_network_disconnected_peers_total"+labels) == "1"
		})
		harness.Eventually(t, 20*time.Second, "failures are counted", func() bool {
			return value(a, `etcd_network_peer_sent_failures_total{To="`+id[gone.Name]+`"}`) > "0"
		})
	})
}
