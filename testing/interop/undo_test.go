package interop

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// TestADeletedNamespaceComesBack deletes a namespace with all that is in it under a real kube-apiserver, and puts
// it back with `keepd undo`, on keepd and on etcd.
func TestADeletedNamespaceComesBack(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	for _, options := range []harness.Options{
		{Flavor: harness.Etcd}, {Flavor: harness.KeepdSealed, Encryption: mixedSealing},
	} {
		t.Run(string(options.Flavor), func(t *testing.T) {
			t.Parallel()
			k := startKube(t, options)
			u := undone{t: t, k: k}
			u.fill()
			u.comesBack()
			equal(t, "kube-apiserver lives", k.apiserver.Exited(), false)
		})
	}
}

// undone is a namespace that is deleted and put back.
type undone struct {
	t *testing.T
	k *kube
	// uids are those of the objects, by path.
	uids map[string]string
}

const (
	shop      = "/api/v1/namespaces/shop"
	shopMaps  = shop + "/configmaps"
	shopApps  = "/apis/apps/v1/namespaces/shop/deployments"
	neighbour = "/api/v1/namespaces/shop2"
)

func uid(o object) string { return meta(o)["uid"].(string) }

func (u *undone) create(path string, body object) {
	u.t.Helper()
	created := u.k.must("POST", path, body)
	at := path + "/" + meta(created)["name"].(string)
	u.uids[at] = uid(created)
}

func kubeNamespace(name string) object {
	return object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": name}}
}

func (u *undone) fill() {
	u.uids = map[string]string{}
	u.create("/api/v1/namespaces", kubeNamespace("shop"))
	u.create("/api/v1/namespaces", kubeNamespace("shop2"))
	for number := range 40 {
		u.create(shopMaps, configMap(fmt.Sprintf("map-%02d", number), fmt.Sprintf("text %d", number)))
	}
	u.create(shop+"/secrets", object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"name": "s"},
		"stringData": object{"password": "canary-undone-kq7vx3"}})
	u.create(shop+"/services", object{"apiVersion": "v1", "kind": "Service", "metadata": object{"name": "web"},
		"spec": object{"ports": []object{{"port": 80}}}})
	labels := object{"app": "web"}
	u.create(shopApps, object{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": object{"name": "web"},
		"spec": object{"selector": object{"matchLabels": labels}, "template": object{
			"metadata": object{"labels": labels},
			"spec":     object{"containers": []object{{"name": "web", "image": "example/web"}}}}}})
	u.create(neighbour+"/configmaps", configMap("theirs", "theirs"))
}

// removed does what kubectl and the namespace controller do: marks the namespace, deletes what is in it, and lets
// it go.
func (u *undone) removed() {
	u.t.Helper()
	u.k.must("DELETE", shop, nil)
	for path := range u.uids {
		if strings.Contains(path, "/namespaces/shop/") {
			u.k.must("DELETE", path, nil)
		}
	}
	marked := u.k.must("GET", shop, nil)
	marked["spec"] = object{"finalizers": []string{}}
	u.k.must("PUT", shop+"/finalize", marked)
	for path := range u.uids {
		if !strings.Contains(path, "shop2") {
			code, _ := u.k.rest("GET", path, nil)
			equal(u.t, "gone: "+path, code, 404)
		}
	}
}

func (u *undone) keepd(args ...string) harness.Output {
	u.t.Helper()
	return harness.Run(u.t, nil, "", harness.KeepdBin(), append(args, u.k.store.CtlArgs()...)...)
}

// beforeTheMark is the last revision at which the namespace was not being deleted.
func (u *undone) beforeTheMark() int64 {
	u.t.Helper()
	out := u.keepd("history", "/registry/namespaces/shop", "-w", "json")
	var history struct {
		Versions []struct {
			Revision int64
			Put      *struct{ Version int64 }
		}
	}
	if err := json.Unmarshal([]byte(out.Stdout), &history); err != nil {
		u.t.Fatalf("%v: %s%s", err, out.Stdout, out.Stderr)
	}
	versions := history.Versions
	if len(versions) < 3 || versions[len(versions)-1].Put != nil {
		u.t.Fatalf("the namespace was made, marked and deleted: %s", out.Stdout)
	}
	return versions[1].Revision - 1
}

func (u *undone) comesBack() {
	t, k := u.t, u.k
	since := resourceVersion(k.must("GET", shopMaps, nil))
	u.removed()
	to := u.beforeTheMark()
	late := u.keepd("undo", "--namespace", "shop", "--to", fmt.Sprint(to+1), "--yes")
	equal(t, "a namespace that is being deleted is refused", late.Code, 1)
	if !strings.Contains(late.Stderr, "being deleted at that time already") {
		t.Fatal(late.Stderr)
	}
	dry := u.keepd("undo", "--namespace", "shop", "--to", fmt.Sprint(to))
	equal(t, "a dry run", dry.Code, 0)
	code, _ := k.rest("GET", shop, nil)
	equal(t, "changes nothing", code, 404)
	done := u.keepd("undo", "--namespace", "shop", "--to", fmt.Sprint(to), "--yes")
	if done.Code != 0 {
		t.Fatalf("exit %d: %s%s", done.Code, done.Stdout, done.Stderr)
	}
	t.Log(strings.TrimSpace(done.Stdout[strings.LastIndex(strings.TrimSpace(done.Stdout), "\n")+1:]))
	for path, want := range u.uids {
		harness.Eventually(t, 20*time.Second, path+" is back", func() bool {
			code, found := k.rest("GET", path, nil)
			return code == 200 && uid(found) == want
		})
	}
	equal(t, "its text", k.must("GET", shopMaps+"/map-07", nil)["data"].(object)["text"].(string), "text 7")
	items := k.must("GET", shopMaps, nil)["items"].([]any)
	equal(t, "the list has them", len(items), 40)
	u.watchersWereTold(since)
	// The namespace works: what is in it can be changed, and more be made.
	k.must("PATCH", shopMaps+"/map-07", object{"data": object{"text": "changed"}})
	harness.Eventually(t, 20*time.Second, "the namespace takes new objects", func() bool {
		code, _ := k.rest("POST", shopMaps, configMap("another", "x"))
		return code == 201
	})
	again := u.keepd("undo", "--namespace", "shop", "--to", fmt.Sprint(to), "-w", "json")
	if !strings.Contains(again.Stdout, `"changed_back":1`) || !strings.Contains(again.Stdout, `"put_back":0`) {
		t.Errorf("a second look: %s%s", again.Stdout, again.Stderr)
	}
}

// watchersWereTold has an informer's watch begin before the deletion: it is told of the end of the objects and of
// their return.
func (u *undone) watchersWereTold(since string) {
	u.t.Helper()
	path := shopMaps + "?watch=1&timeoutSeconds=2&resourceVersion=" + since
	response := must(u.k.client.Get(u.k.url + path))(u.t)
	defer response.Body.Close()
	counts := map[string]int{}
	for decoder := json.NewDecoder(response.Body); ; {
		var event struct{ Type string }
		if decoder.Decode(&event) != nil {
			break
		}
		counts[event.Type]++
	}
	equal(u.t, "deleted", counts["DELETED"], 40)
	equal(u.t, "added again", counts["ADDED"], 40)
}
