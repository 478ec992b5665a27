package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keepd/keepd/testing/interop/harness"
)

func (a *api) http(method, path, body string) (int, string) {
	a.t.Helper()
	request := must(http.NewRequest(method, a.ClientURL+path, strings.NewReader(body)))(a.t)
	response := must(a.HTTP().Do(request))(a.t)
	defer response.Body.Close()
	return response.StatusCode, string(must(io.ReadAll(response.Body))(a.t))
}

func TestHealthEndpoints(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		for _, path := range []string{"/livez", "/readyz", "/livez/serializable_read",
			"/readyz/serializable_read", "/readyz/linearizable_read", "/readyz/data_corruption"} {
			code, body := a.http("GET", path, "")
			equal(t, path, code, 200)
			equal(t, path, body, "ok\n")
		}
		code, body := a.http("GET", "/health", "")
		equal(t, "code", code, 200)
		equal(t, "health", strings.TrimSpace(body), `{"health":"true","reason":""}`)
		code, body = a.http("GET", "/readyz?verbose", "")
		equal(t, "code", code, 200)
		for _, check := range []string{"data_corruption", "serializable_read", "linearizable_read", "non_learner"} {
			equal(t, check, strings.Contains(body, "[+]"+check+" ok\n"), true)
		}
		r := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: 1}
		must(a.maintenance.Alarm(ctx(t), r))(t)
		code, body = a.http("GET", "/health", "")
		equal(t, "code", code, 503)
		equal(t, "health", strings.TrimSpace(body), `{"health":"false","reason":"ALARM NOSPACE"}`)
		code, _ = a.http("GET", "/health?exclude=NOSPACE", "")
		equal(t, "excluded", code, 200)
		code, _ = a.http("GET", "/readyz", "")
		equal(t, "ready under NOSPACE", code, 200)
		r.Alarm = pb.AlarmType_CORRUPT
		must(a.maintenance.Alarm(ctx(t), r))(t)
		code, _ = a.http("GET", "/readyz", "")
		equal(t, "not ready when corrupt", code, 503)
		code, _ = a.http("GET", "/livez", "")
		equal(t, "alive when corrupt", code, 200)
	})
}

func TestVersionAndMetrics(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		var version map[string]string
		// etcd migrates its storage after it has decided the cluster's version.
		harness.Eventually(t, 10*time.Second, "cluster and storage have their version", func() bool {
			code, body := a.http("GET", "/version", "")
			equal(t, "code", code, 200)
			if err := json.Unmarshal([]byte(body), &version); err != nil {
				t.Fatal(err)
			}
			return version["etcdcluster"] == "3.7.0" && version["storage"] == "3.7.0"
		})
		equal(t, "server", version["etcdserver"], "3.7.1")
		code, _ := a.http("POST", "/version", "")
		equal(t, "only GET", code, 405)
		code, _ = a.http("GET", "/nonsense", "")
		equal(t, "elsewhere", code, 404)
		a.put("a", "1")
		code, body := a.http("GET", "/metrics", "")
		equal(t, "code", code, 200)
		for _, metric := range []string{
			"etcd_server_has_leader 1", "etcd_server_is_leader 1", "etcd_server_proposals_committed_total",
			"etcd_server_proposals_applied_total", "etcd_mvcc_db_total_size_in_bytes",
			"etcd_mvcc_db_total_size_in_use_in_bytes", "etcd_server_quota_backend_bytes",
			"etcd_disk_wal_fsync_duration_seconds_bucket", "etcd_server_version",
			"etcd_debugging_mvcc_keys_total 1", "etcd_mvcc_put_total 1", "process_resident_memory_bytes",
			"grpc_server_handled_total",
		} {
			if !strings.Contains(body, "\n"+metric) {
				t.Errorf("no metric %s", metric)
			}
		}
	})
}

// kubeadm's static pod is probed on a port of its own, without TLS.
func TestMetricsOnTheirOwnPort(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			own := fmt.Sprintf("http://127.0.0.1:%d", harness.FreePort(t))
			harness.Start(t, harness.Options{Flavor: flavor, PKI: harness.OpenSSL(t),
				Args: []string{"--listen-metrics-urls=" + own}})
			for path, want := range map[string]string{
				"/health": `"health":"true"`, "/livez": "ok", "/readyz": "ok", "/metrics": "etcd_server_has_leader 1",
			} {
				response := must(http.Get(own + path))(t)
				body := must(io.ReadAll(response.Body))(t)
				response.Body.Close()
				equal(t, path, response.StatusCode, 200)
				equal(t, path, strings.Contains(string(body), want), true)
			}
		})
	}
}

func TestGateway(t *testing.T) {
	onEachThatHas(t, harness.Gateway, func(t *testing.T, a *api) {
		post := func(path, body string) (int, map[string]any) {
			t.Helper()
			code, answer := a.http("POST", path, body)
			var fields map[string]any
			if err := json.Unmarshal([]byte(answer), &fields); err != nil {
				t.Fatalf("%s: %q: %v", path, answer, err)
			}
			return code, fields
		}
		code, put := post("/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`)
		equal(t, "put", code, 200)
		header := put["header"].(map[string]any)
		equal(t, "numbers of 64 bits are text", header["revision"].(string), "2")
		_, got := post("/v3/kv/range", `{"key":"Zm9v","sortTarget":"MOD","unknown":1}`)
		equal(t, "count", got["count"].(string), "1")
		kv := got["kvs"].([]any)[0].(map[string]any)
		equal(t, "value", kv["value"].(string), "YmFy")
		equal(t, "create revision", kv["create_revision"].(string), "2")
		_, zero := kv["lease"]
		equal(t, "defaults are left out", zero, false)
		_, txn := post("/v3/kv/txn", `{"compare":[{"target":"VERSION","key":"Zm9v","version":"7"}],
			"success":[{"requestPut":{"key":"Zm9v"}}],"failure":[{"request_range":{"key":"Zm9v"}}]}`)
		_, succeeded := txn["succeeded"]
		equal(t, "false is left out", succeeded, false)
		inner := txn["responses"].([]any)[0].(map[string]any)["response_range"].(map[string]any)
		equal(t, "branch", inner["count"].(string), "1")
		code, _ = post("/v3beta/kv/range", `{"key":"Zm9v"}`)
		equal(t, "the older prefix", code, 200)
		_, status := post("/v3/maintenance/status", "{}")
		equal(t, "version", status["version"].(string), "3.7.1")
		_, lease := post("/v3/lease/grant", `{"TTL":"100","ID":77}`)
		equal(t, "lease", lease["ID"].(string), "77")
		_, members := post("/v3/cluster/member/list", "")
		equal(t, "an empty body is an empty request", len(members["members"].([]any)), 1)
		for _, c := range []struct {
			path, body string
			http, code int
			text       string
		}{
			{"/v3/kv/range", `{}`, 400, 3, errEmptyKey},
			{"/v3/kv/range", `{"key":"Zm9v","revision":99}`, 400, 11, errFuture},
			{"/v3/lease/revoke", `{"ID":"404"}`, 404, 5, errLeaseNotFound},
			{"/v3/nothing", `{}`, 404, 5, "Not Found"},
		} {
			code, failure := post(c.path, c.body)
			equal(t, c.path, code, c.http)
			equal(t, "code", int(failure["code"].(float64)), c.code)
			equal(t, "message", failure["message"].(string), c.text)
		}
		code, _ = post("/v3/kv/range", `{"key":"!!"}`)
		equal(t, "bad base64", code, 400)
		code, _ = a.http("GET", "/v3/kv/range", "")
		equal(t, "wrong method", code, 501)
	})
}

func TestGatewayWatch(t *testing.T) {
	onEachThatHas(t, harness.Gateway, func(t *testing.T, a *api) {
		a.put("foo", "1")
		body := strings.NewReader(`{"create_request":{"key":"Zm9v","start_revision":"2"}}`)
		response := must(a.HTTP().Post(a.ClientURL+"/v3/watch", "application/json", body))(t)
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		next := func() map[string]any {
			t.Helper()
			if !lines.Scan() {
				t.Fatal("the stream ended")
			}
			var line map[string]map[string]any
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				t.Fatal(err)
			}
			return line["result"]
		}
		equal(t, "created", next()["created"].(bool), true)
		event := next()["events"].([]any)[0].(map[string]any)
		_, hasType := event["type"]
		equal(t, "a put has no type", hasType, false)
		a.del("foo")
		event = next()["events"].([]any)[0].(map[string]any)
		equal(t, "type", event["type"].(string), "DELETE")
	})
}

// gRPC is HTTP/2's: what a page in a browser can send over HTTP/1.1 reaches no method, and none of
// them is granted to any origin.
func TestMethodsAreNotForBrowsers(t *testing.T) {
	onEach(t, func(t *testing.T, a *api) {
		const put = "/etcdserverpb.KV/Put"
		message := string(harness.Message([]byte("\x0a\x01k\x12\x01v")))
		for _, kind := range []string{"application/grpc", "application/grpc-web", "text/plain"} {
			request := must(http.NewRequest("POST", a.ClientURL+put, strings.NewReader(message)))(t)
			request.Header.Set("content-type", kind)
			response := must(a.HTTP().Do(request))(t)
			response.Body.Close()
			equal(t, kind, response.StatusCode, 404)
		}
		equal(t, "nothing was written", len(a.one("k").Kvs), 0)
		request := must(http.NewRequest("OPTIONS", a.ClientURL+put, nil))(t)
		response := must(a.HTTP().Do(request))(t)
		response.Body.Close()
		if granted := response.Header.Get("access-control-allow-origin"); a.Flavor.IsKeepd() && granted != "" {
			t.Errorf("%s is granted to %s", put, granted)
		}
	})
}
