package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// mixedSealing is a configuration as operators write it: a provider per resource.
const mixedSealing = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: sb1, secret: a2VlcGQgdGVzdCBrZXkga2VlcGQgdGVzdCBrZXkhISE=}]}
  - identity: {}
- resources: [configmaps, pandas.awesome.bears.example]
  providers:
  - aescbc: {keys: [{name: key1, secret: a2VlcGQgdGVzdCBrZXkga2VlcGQgdGVzdCBrZXkhISE=}]}
  - identity: {}
- resources: [events]
  providers:
  - identity: {}
- resources: ["*.apps"]
  providers:
  - aesgcm: {keys: [{name: g16, secret: a2VlcGQgdGVzdCBrZXkhIQ==}]}
- resources: ["*.*"]
  providers:
  - aesgcm: {keys: [{name: all, secret: a2VlcGQgdGVzdCBrZXkga2VlcGQgdGVz}]}
`

// kube is a kube-apiserver on a store.
type kube struct {
	t         *testing.T
	store     *api
	apiserver *harness.Process
	url       string
	client    *http.Client
	config    string
	kubectl   string
}

func startKube(t *testing.T, options harness.Options) *kube {
	t.Helper()
	options.PKI = kubePKI(t)
	options.Args = []string{"--snapshot-count=10000", "--watch-progress-notify-interval=5s",
		"--feature-gates=InitialCorruptCheck=true"}
	return kubeOn(t, harness.Start(t, options))
}

// kubePKI holds what the store, kube-apiserver and its users need.
func kubePKI(t *testing.T) *harness.PKI {
	t.Helper()
	pki := harness.OpenSSL(t)
	pki.Leaf(t, "apiserver", "/CN=kube-apiserver", "serverAuth", "DNS:localhost,DNS:kubernetes,"+
		"DNS:kubernetes.default,DNS:kubernetes.default.svc,"+
		"DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.0.0.1")
	pki.Leaf(t, "admin", "/O=system:masters/CN=admin", "clientAuth", "")
	pki.ServiceAccountKeys(t)
	return pki
}

// kubeOn starts a kube-apiserver on a running store.
func kubeOn(t *testing.T, store *harness.Store, extra ...string) *kube {
	t.Helper()
	pki := store.PKI
	k := &kube{t: t, store: newAPI(t, store), kubectl: harness.KubeTool(t, "kubectl")}
	port := harness.FreePort(t)
	k.url = fmt.Sprintf("https://127.0.0.1:%d", port)
	admin := pki.AnonymousTLS(t)
	pair := must(tlsPair(pki, "admin"))(t)
	admin.Certificates = append(admin.Certificates, pair)
	k.client = &http.Client{Transport: &http.Transport{TLSClientConfig: admin}, Timeout: 60 * time.Second}
	t.Cleanup(k.client.CloseIdleConnections)

	dir := t.TempDir()
	k.config = filepath.Join(dir, "kubeconfig")
	config := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\n"+
		"clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]\n"+
		"users: [{name: u, user: {client-certificate: %q, client-key: %q}}]\n"+
		"contexts: [{name: c, context: {cluster: c, user: u}}]\n",
		k.url, pki.Path("ca.crt"), pki.Path("admin.crt"), pki.Path("admin.key"))
	if err := os.WriteFile(k.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{
		"--etcd-servers=" + k.store.ClientURL, "--etcd-cafile=" + pki.Path("ca.crt"),
		"--etcd-certfile=" + pki.Path("client.crt"), "--etcd-keyfile=" + pki.Path("client.key"),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + pki.Path("apiserver.crt"), "--tls-private-key-file=" + pki.Path("apiserver.key"),
		"--client-ca-file=" + pki.Path("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki.Path("sa.pub"),
		"--service-account-signing-key-file=" + pki.Path("sa.key"),
		"--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
		"--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
		"--event-ttl=20s", "--etcd-compaction-interval=10s"}, extra...)
	k.apiserver = harness.StartProcess(t, filepath.Join(dir, "apiserver.log"),
		// The cache compares itself with the store and dies on a difference.
		[]string{"KUBE_WATCHCACHE_CONSISTENCY_CHECKER=true"},
		harness.KubeTool(t, "kube-apiserver"), args...)
	started := time.Now()
	k.waitReady()
	t.Logf("kube-apiserver was ready %.1f s after its start", time.Since(started).Seconds())
	return k
}

func (k *kube) waitReady() {
	k.t.Helper()
	harness.Eventually(k.t, 90*time.Second, "kube-apiserver is ready", func() bool {
		if k.apiserver.Exited() {
			k.t.Fatalf("kube-apiserver ended:\n%s", k.apiserver.Tail(6000))
		}
		response, err := k.client.Get(k.url + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == 200
	})
}

func (k *kube) ctl(args ...string) string {
	k.t.Helper()
	env := []string{"KUBECONFIG=" + k.config, "HOME=" + filepath.Dir(k.config)}
	return harness.MustRun(k.t, env, k.kubectl, args...)
}

type object = map[string]any

// rest is a call of the API; the body may be an object or text.
func (k *kube) rest(method, path string, body any) (int, object) {
	k.t.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		k.t.Fatal(err)
	}
	request := must(http.NewRequest(method, k.url+path, bytes.NewReader(content)))(k.t)
	request.Header.Set("Content-Type", "application/json")
	if method == "PATCH" {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response := must(k.client.Do(request))(k.t)
	defer response.Body.Close()
	answer := object{}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		k.t.Fatalf("%s %s: %v", method, path, err)
	}
	return response.StatusCode, answer
}

func (k *kube) must(method, path string, body any) object {
	k.t.Helper()
	code, answer := k.rest(method, path, body)
	if code >= 300 {
		k.t.Fatalf("%s %s: %d %v", method, path, code, answer["message"])
	}
	return answer
}

func meta(o object) object { return o["metadata"].(object) }

func resourceVersion(o object) string { return meta(o)["resourceVersion"].(string) }

func configMap(name, value string) object {
	return object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": name},
		"data": object{"text": value}}
}

const configMaps = "/api/v1/namespaces/default/configmaps"

func TestKubernetes(t *testing.T) {
	t.Parallel()
	variants := []harness.Options{{Flavor: harness.Etcd}}
	if harness.KeepdBin() != "" {
		variants = append(variants, harness.Options{Flavor: harness.Keepd},
			harness.Options{Flavor: harness.KeepdSealed, Encryption: mixedSealing})
	}
	for _, options := range variants {
		t.Run(string(options.Flavor), func(t *testing.T) {
			t.Parallel()
			k := startKube(t, options)
			event := k.createEvent()
			for name, test := range map[string]func(*testing.T, *kube){
				"objects": kubeObjects, "pages": kubePages, "watch": kubeWatch, "apply": kubeApply,
				"secret": kubeSecret, "custom resources": kubeCustomResources, "workloads": kubeWorkloads,
			} {
				t.Run(name, func(t *testing.T) {
					inner := *k
					inner.t = t
					test(t, &inner)
				})
			}
			t.Run("compaction", func(t *testing.T) { kubeCompaction(t, k) })
			t.Run("event expires", func(t *testing.T) { kubeEventExpires(t, k, event) })
			t.Run("metrics", func(t *testing.T) { kubeMetrics(t, k) })
			t.Run("store restarts", func(t *testing.T) { kubeStoreRestarts(t, k) })
			equal(t, "kube-apiserver lives", k.apiserver.Exited(), false)
			if options.Flavor == harness.KeepdSealed {
				t.Run("moves to etcd", func(t *testing.T) { kubeMovesToEtcd(t, k) })
				k.store.Terminate(t)
				c := canaries{}
				for _, text := range []string{"canary-secret-kq7vx3", "canary-map-kq7vx3", "canary-panda-kq7vx3",
					"/registry/", "kube-system", "system:masters", "compact_rev_key"} {
					c.add(text, text)
				}
				for where := range c.sightings(t, k.store.DataDir) {
					t.Errorf("found %s", where)
				}
			}
		})
	}
}

func kubeObjects(t *testing.T, k *kube) {
	created := k.must("POST", configMaps, configMap("one", "canary-map-kq7vx3"))
	stored := k.store.one("/registry/configmaps/default/one").Kvs[0]
	equal(t, "the resource version is the revision", resourceVersion(created), fmt.Sprint(stored.ModRevision))
	equal(t, "plain on the wire", string(stored.Value[:4]), "k8s\x00")
	code, again := k.rest("POST", configMaps, configMap("one", "x"))
	equal(t, "exists", code, 409)
	equal(t, "reason", again["reason"].(string), "AlreadyExists")
	patched := k.must("PATCH", configMaps+"/one", object{"data": object{"text": "patched"}})
	equal(t, "patched", patched["data"].(object)["text"].(string), "patched")
	stale := configMap("one", "stale")
	meta(stale)["resourceVersion"] = resourceVersion(created)
	code, conflict := k.rest("PUT", configMaps+"/one", stale)
	equal(t, "a stale replace", code, 409)
	equal(t, "reason", conflict["reason"].(string), "Conflict")
	unchanged := k.must("PATCH", configMaps+"/one", object{"data": object{"text": "patched"}})
	equal(t, "no change, no revision", resourceVersion(unchanged), resourceVersion(patched))
	equal(t, "kubectl", k.ctl("get", "configmap", "one", "-o", "jsonpath={.data.text}"), "patched")
	k.must("DELETE", configMaps+"/one", nil)
	code, _ = k.rest("GET", configMaps+"/one", nil)
	equal(t, "gone", code, 404)
	equal(t, "gone from the store", k.store.one("/registry/configmaps/default/one").Count, 0)
	huge := configMap("huge", strings.Repeat("x", 1<<20))
	huge["data"].(object)["more"] = strings.Repeat("y", 600_000)
	code, refused := k.rest("POST", configMaps, huge)
	equal(t, "too large", code >= 400 && code < 500 || strings.Contains(fmt.Sprint(refused["message"]), "too large"), true)
	if !strings.Contains(k.ctl("version", "-o", "json"), `"gitVersion": "v1.37.2"`) {
		t.Error("kubectl version does not see the server's")
	}
}

func kubePages(t *testing.T, k *kube) {
	k.ctl("create", "namespace", "pages")
	maps := "/api/v1/namespaces/pages/configmaps"
	for i := range 25 {
		k.must("POST", maps, configMap(fmt.Sprintf("page-%02d", i), "v"))
	}
	var names []string
	page := k.must("GET", maps+"?limit=10", nil)
	first := resourceVersion(page)
	for remaining := 15.0; ; remaining -= 10 {
		equal(t, "one revision for all pages", resourceVersion(page), first)
		for _, item := range page["items"].([]any) {
			names = append(names, meta(item.(object))["name"].(string))
		}
		token, more := meta(page)["continue"].(string)
		if !more {
			break
		}
		equal(t, "remaining", meta(page)["remainingItemCount"].(float64), remaining)
		if remaining == 15 {
			k.must("POST", maps, configMap("page-05-between", "v"))
		}
		page = k.must("GET", maps+"?limit=10&continue="+url.QueryEscape(token), nil)
	}
	equal(t, "names", len(names), 25)
	exact := k.must("GET", maps+"?resourceVersionMatch=Exact&resourceVersion="+first, nil)
	equal(t, "the list at that revision", len(exact["items"].([]any)), 25)
	equal(t, "the list now", len(k.must("GET", maps, nil)["items"].([]any)), 26)
	cached := k.must("GET", maps+"?resourceVersion=0", nil)
	equal(t, "from the cache", len(cached["items"].([]any)) >= 25, true)
	k.must("DELETE", maps, nil)
	equal(t, "deletecollection", len(k.must("GET", maps, nil)["items"].([]any)), 0)
}

func kubeWatch(t *testing.T, k *kube) {
	list := k.must("GET", configMaps, nil)
	watch := k.url + configMaps + "?watch=1&timeoutSeconds=40&fieldSelector=metadata.name%3Dwatched&resourceVersion=" +
		resourceVersion(list)
	response := must(k.client.Get(watch))(t)
	defer response.Body.Close()
	k.must("POST", configMaps, configMap("watched", "1"))
	k.must("PATCH", configMaps+"/watched", object{"data": object{"text": "2"}})
	k.must("DELETE", configMaps+"/watched", nil)
	decoder := json.NewDecoder(response.Body)
	var seen []string
	for len(seen) < 3 {
		var event struct {
			Type   string
			Object object
		}
		if err := decoder.Decode(&event); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, event.Type+" "+event.Object["data"].(object)["text"].(string))
	}
	equal(t, "events", strings.Join(seen, ", "), "ADDED 1, MODIFIED 2, DELETED 2")

	// A list through a watch needs the store's manual progress answers.
	initial := k.url + configMaps + "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true" +
		"&resourceVersionMatch=NotOlderThan&timeoutSeconds=20"
	k.must("POST", configMaps, configMap("initial", "1"))
	stream := must(k.client.Get(initial))(t)
	defer stream.Body.Close()
	decoder = json.NewDecoder(stream.Body)
	for added := false; ; {
		var event struct {
			Type   string
			Object object
		}
		if err := decoder.Decode(&event); err != nil {
			t.Fatalf("no bookmark that ends the list: %v", err)
		}
		name, _ := meta(event.Object)["name"].(string)
		added = added || event.Type == "ADDED" && name == "initial"
		if event.Type == "BOOKMARK" {
			equal(t, "everything came before the bookmark", added, true)
			break
		}
		if event.Type == "ERROR" {
			t.Fatalf("watch list: %v", event.Object)
		}
	}
}

func kubeApply(t *testing.T, k *kube) {
	apply := func(manager, value string) (int, object) {
		t.Helper()
		content := must(json.Marshal(configMap("applied", value)))(t)
		path := k.url + configMaps + "/applied?fieldManager=" + manager
		request := must(http.NewRequest("PATCH", path, bytes.NewReader(content)))(t)
		request.Header.Set("Content-Type", "application/apply-patch+yaml")
		response := must(k.client.Do(request))(t)
		defer response.Body.Close()
		answer := object{}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, answer
	}
	code, _ := apply("alice", "hers")
	equal(t, "created", code, 201)
	code, conflict := apply("bob", "his")
	equal(t, "a conflict", code, 409)
	equal(t, "names the owner", strings.Contains(conflict["message"].(string), `"alice"`), true)
	code, _ = apply("alice", "hers again")
	equal(t, "her own field", code, 200)
}

func kubeSecret(t *testing.T, k *kube) {
	k.ctl("create", "secret", "generic", "mine", "--from-literal=password=canary-secret-kq7vx3")
	equal(t, "round trip", k.ctl("get", "secret", "mine", "-o", "jsonpath={.data.password}"),
		"Y2FuYXJ5LXNlY3JldC1rcTd2eDM=")
	stored := k.store.one("/registry/secrets/default/mine").Kvs[0]
	equal(t, "raw bytes as written", bytes.HasPrefix(stored.Value, []byte("k8s\x00")), true)
	equal(t, "raw bytes hold the value", bytes.Contains(stored.Value, []byte("canary-secret-kq7vx3")), true)
}

func kubeCustomResources(t *testing.T, k *kube) {
	schema := object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	k.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": "pandas.awesome.bears.example"},
		"spec": object{
			"group": "awesome.bears.example", "scope": "Namespaced",
			"names": object{"plural": "pandas", "singular": "panda", "kind": "Panda"},
			"versions": []any{object{"name": "v1", "served": true, "storage": true,
				"schema": object{"openAPIV3Schema": schema}}},
		},
	})
	pandas := "/apis/awesome.bears.example/v1/namespaces/default/pandas"
	panda := object{"apiVersion": "awesome.bears.example/v1", "kind": "Panda",
		"metadata": object{"name": "bao"}, "eats": "canary-panda-kq7vx3"}
	harness.Eventually(t, 30*time.Second, "the resource is served", func() bool {
		response, err := k.client.Get(k.url + pandas)
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == 200
	})
	k.must("POST", pandas, panda)
	got := k.must("GET", pandas+"/bao", nil)
	equal(t, "round trip", got["eats"].(string), "canary-panda-kq7vx3")
	stored := k.store.one("/registry/awesome.bears.example/pandas/default/bao")
	equal(t, "its key", stored.Count, 1)
	equal(t, "stored as JSON", stored.Kvs[0].Value[0], '{')
	k.must("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/pandas.awesome.bears.example", nil)
	harness.Eventually(t, 30*time.Second, "its objects go with the definition", func() bool {
		return k.store.one("/registry/awesome.bears.example/pandas/default/bao").Count == 0
	})
}

func kubeWorkloads(t *testing.T, k *kube) {
	k.ctl("create", "deployment", "web", "--image=example.org/web:1", "--replicas=2")
	k.ctl("scale", "deployment", "web", "--replicas=3")
	k.ctl("set", "image", "deployment/web", "web=example.org/web:2")
	equal(t, "scaled", k.ctl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"), "3")
	k.ctl("create", "serviceaccount", "robot")
	k.ctl("create", "service", "clusterip", "front", "--tcp=80:80")
	equal(t, "an address was allocated",
		strings.HasPrefix(k.ctl("get", "service", "front", "-o", "jsonpath={.spec.clusterIP}"), "10.0.0."), true)
	k.ctl("label", "deployment", "web", "tier=front")
	equal(t, "selected", k.ctl("get", "deployments", "-l", "tier=front", "-o", "name"), "deployment.apps/web\n")
	k.ctl("delete", "deployment", "web")
	equal(t, "gone", k.ctl("get", "deployments", "-o", "name"), "")
}

func (k *kube) createEvent() string {
	now := time.Now().UTC().Format(time.RFC3339)
	k.must("POST", "/api/v1/namespaces/default/events", object{
		"apiVersion": "v1", "kind": "Event", "metadata": object{"name": "short-lived"},
		"involvedObject": object{"kind": "Pod", "namespace": "default", "name": "p"},
		"reason":         "Test", "message": "m", "type": "Normal", "firstTimestamp": now, "lastTimestamp": now,
	})
	return "/registry/events/default/short-lived"
}

func kubeEventExpires(t *testing.T, k *kube, key string) {
	harness.Eventually(t, 60*time.Second, "the event expires with its lease", func() bool {
		return k.store.one(key).Count == 0
	})
	code, _ := k.rest("GET", "/api/v1/namespaces/default/events/short-lived", nil)
	equal(t, "gone", code, 404)
}

// kube-apiserver compacts what is older than its interval; a client that asks for it is told.
func kubeCompaction(t *testing.T, k *kube) {
	old := resourceVersion(k.must("GET", configMaps, nil))
	harness.Eventually(t, 60*time.Second, "the revision is compacted", func() bool {
		k.must("PATCH", "/api/v1/namespaces/default", object{"metadata": object{
			"annotations": object{"beat": time.Now().String()}}})
		code, answer := k.rest("GET", configMaps+"?limit=1&resourceVersionMatch=Exact&resourceVersion="+old, nil)
		return code == 410 && answer["reason"].(string) == "Expired"
	})
}

var sample = regexp.MustCompile(`(?m)^([a-z_]+)(\{[^}]*\})? ([0-9.e+]+)$`)

func kubeMetrics(t *testing.T, k *kube) {
	response := must(k.client.Get(k.url + "/metrics"))(t)
	defer response.Body.Close()
	text := string(must(io.ReadAll(response.Body))(t))
	sum := func(name string, labels ...string) float64 {
		total := 0.0
		for _, match := range sample.FindAllStringSubmatch(text, -1) {
			if match[1] != name {
				continue
			}
			all := true
			for _, label := range labels {
				all = all && strings.Contains(match[2], label)
			}
			if all {
				value := must(strconv.ParseFloat(match[3], 64))(t)
				total += value
			}
		}
		return total
	}
	reads := "apiserver_watch_cache_consistent_read_total"
	equal(t, "consistent reads from the cache", sum(reads, `success="true"`, `fallback="false"`) > 0, true)
	equal(t, "none falls back to the store", sum(reads, `fallback="true"`), 0)
	equal(t, "progress notifications arrive", sum("etcd_bookmark_total") > 0, true)
	equal(t, "range streams are used",
		sum("etcd_request_duration_seconds_count", `operation="listStream"`) > 0, true)
	equal(t, "the store's size is known", sum("apiserver_storage_size_bytes") > 0, true)
	equal(t, "cache and store agree",
		sum("apiserver_storage_consistency_checks_total", `status="failure"`), 0)
}

func kubeStoreRestarts(t *testing.T, k *kube) {
	k.must("POST", configMaps, configMap("survivor", "1"))
	k.store.Restart()
	k.waitReady()
	harness.Eventually(t, 30*time.Second, "kube-apiserver writes again", func() bool {
		code, _ := k.rest("PATCH", configMaps+"/survivor", object{"data": object{"text": "2"}})
		return code == 200
	})
	got := k.must("GET", configMaps+"/survivor", nil)
	equal(t, "value", got["data"].(object)["text"].(string), "2")
}

// A snapshot of a sealed keepd holds Kubernetes' own ciphertext: on plain etcd a kube-apiserver
// that has the same configuration reads it.
func kubeMovesToEtcd(t *testing.T, k *kube) {
	file := save(t, realTool(t, "etcdctl"), k.store.Store)
	content := must(os.ReadFile(file))(t)
	equal(t, "the file is sealed", bytes.Contains(content, []byte("canary-secret-kq7vx3")), false)
	equal(t, "in Kubernetes' form", bytes.Contains(content, []byte("k8s:enc:secretbox:v1:sb1:")), true)
	etcd := harness.Prepare(t, harness.Options{Flavor: harness.Etcd, PKI: k.store.PKI})
	realTool(t, "etcdutl").must(t, "snapshot", "restore", file, "--data-dir="+etcd.DataDir,
		"--name="+etcd.Name, "--initial-cluster="+etcd.InitialCluster,
		"--initial-advertise-peer-urls="+etcd.PeerURL)
	etcd.Launch()
	etcd.WaitReady()
	config := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(config, []byte(mixedSealing), 0o600); err != nil {
		t.Fatal(err)
	}
	moved := kubeOn(t, etcd, "--encryption-provider-config="+config)
	equal(t, "the secret", moved.ctl("get", "secret", "mine", "-o", "jsonpath={.data.password}"),
		"Y2FuYXJ5LXNlY3JldC1rcTd2eDM=")
	equal(t, "a config map", moved.ctl("get", "configmap", "survivor", "-o", "jsonpath={.data.text}"), "2")
	moved.ctl("create", "secret", "generic", "more", "--from-literal=a=b")
	moved.apiserver.Kill()
}

// The other way: what kube-apiserver encrypted itself on etcd is imported into a sealed keepd as
// the client's bytes, sealed once more, and comes back as it was.
func TestKubernetesThatEncryptsMovesToKeepd(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(config, []byte(mixedSealing), 0o600); err != nil {
		t.Fatal(err)
	}
	encrypting := "--encryption-provider-config=" + config
	etcd := harness.Start(t, harness.Options{Flavor: harness.Etcd, PKI: kubePKI(t)})
	k := kubeOn(t, etcd, encrypting)
	k.ctl("create", "secret", "generic", "mine", "--from-literal=password=canary-secret-kq7vx3")
	k.apiserver.Kill()
	const key = "/registry/secrets/default/mine"
	raw := k.store.one(key).Kvs[0]
	equal(t, "encrypted by kube-apiserver",
		strings.HasPrefix(string(raw.Value), "k8s:enc:secretbox:v1:sb1:"), true)
	file := save(t, realTool(t, "etcdctl"), etcd)
	for _, flavor := range harness.Flavors() {
		if flavor != harness.KeepdSealed {
			continue
		}
		t.Run(string(flavor), func(t *testing.T) {
			s := harness.Prepare(t, harness.Options{Flavor: flavor, PKI: etcd.PKI, Encryption: mixedSealing})
			restore := []string{"snapshot", "restore", file, "--data-dir=" + s.DataDir,
				"--name=" + s.Name, "--initial-cluster=" + s.InitialCluster,
				"--initial-advertise-peer-urls=" + s.PeerURL, encrypting}
			// Nothing in etcd's file proves where its values come from, so the operator has to vouch.
			const vouch = "--encryption-trust-plain-data"
			refused := ownTool("etcdutl").run(t, "", restore...)
			equal(t, "refused, with the remedy", strings.Contains(refused.Stderr, vouch), true)
			ownTool("etcdutl").must(t, append(restore, vouch)...)
			s.Launch()
			s.WaitReady()
			moved := kubeOn(t, s, encrypting)
			equal(t, "the same bytes", bytes.Equal(moved.store.one(key).Kvs[0].Value, raw.Value), true)
			password := moved.ctl("get", "secret", "mine", "-o", "jsonpath={.data.password}")
			equal(t, "the secret", password, "Y2FuYXJ5LXNlY3JldC1rcTd2eDM=")
			moved.ctl("create", "secret", "generic", "more", "--from-literal=a=b")
			equal(t, "written after", moved.ctl("get", "secret", "more", "-o", "jsonpath={.data.a}"), "Yg==")
		})
	}
}
