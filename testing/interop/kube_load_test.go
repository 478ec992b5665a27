package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// kubeLoadPath is where the objects of the load lie.
	kubeLoadPath = "/api/v1/namespaces/load/configmaps"
	// kubeWriters each have objects of their own.
	kubeWriters = 4
	// kubeObjects is how many of them one writer keeps at once.
	kubeObjectsOfOne = 8
)

// kubeEntry is what is known of an object. A name is used for one object only.
type kubeEntry struct {
	// version is the resource version of the last acknowledged write, and text what it wrote.
	version int64
	text    string
	// leaves is set before a delete is asked for, gone when it was acknowledged.
	leaves, gone bool
}

// kubeLoad writes through the API server, lists, and watches as a reflector does, and knows what it was told.
type kubeLoad struct {
	t    *testing.T
	k    *kube
	stop chan struct{}
	jobs sync.WaitGroup

	mu sync.Mutex
	// entries are all objects whose creation was acknowledged, by name.
	entries map[string]kubeEntry
	// writes are the acknowledged creations and updates by resource version.
	writes map[int64]string

	acknowledged, failed, lists atomic.Int64
	// longest is the longest time that one writer had to wait for its next acknowledgement.
	longest atomic.Int64
	seen    *kubeReflector
}

func startKubeLoad(t *testing.T, k *kube) *kubeLoad {
	t.Helper()
	l := &kubeLoad{t: t, k: k, stop: make(chan struct{}), entries: map[string]kubeEntry{},
		writes: map[int64]string{}}
	l.seen = newKubeReflector(l)
	for number := range kubeWriters {
		l.jobs.Go(func() { l.write(number) })
	}
	l.jobs.Go(l.list)
	t.Cleanup(l.end)
	return l
}

// end ends writers and lists; the reflector goes on.
func (l *kubeLoad) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.jobs.Wait()
}

func (l *kubeLoad) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// ask is a call that may fail; the code is 0 if there was no answer.
func (l *kubeLoad) ask(method, path string, body any) (int, object) {
	content, err := json.Marshal(body)
	if err != nil {
		return 0, nil
	}
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(c, method, l.k.url+path, bytes.NewReader(content))
	if err != nil {
		return 0, nil
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := l.k.client.Do(request)
	if err != nil {
		return 0, nil
	}
	defer response.Body.Close()
	answer := object{}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, nil
	}
	return response.StatusCode, answer
}

func versionOf(o object) int64 {
	version, err := strconv.ParseInt(resourceVersion(o), 10, 64)
	if err != nil {
		return 0
	}
	return version
}

func textOf(o object) string {
	data, _ := o["data"].(object)
	text, _ := data["text"].(string)
	return text
}

func nameOf(o object) string { return meta(o)["name"].(string) }

// wrote notes an acknowledged creation or update.
func (l *kubeLoad) wrote(answer object) {
	name, entry := nameOf(answer), kubeEntry{version: versionOf(answer), text: textOf(answer)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, twice := l.writes[entry.version]; twice {
		l.t.Errorf("revision %d was given to %s and to %s", entry.version, before, name)
	}
	if before := l.entries[name]; before.version >= entry.version {
		l.t.Errorf("%s went from revision %d to %d", name, before.version, entry.version)
	}
	l.writes[entry.version] = name + "=" + entry.text
	l.entries[name] = entry
	l.acknowledged.Add(1)
}

func (l *kubeLoad) mark(name string, change func(*kubeEntry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry := l.entries[name]
	change(&entry)
	l.entries[name] = entry
}

// write creates, updates and deletes objects until the end; what fails is asked again until it is known.
func (l *kubeLoad) write(writer int) {
	var names []string
	last := time.Now()
	for i := 0; !l.stopped(); i++ {
		text := fmt.Sprintf("%d-%d", writer, i)
		switch {
		case len(names) < kubeObjectsOfOne:
			// Whether a creation that failed takes place, now or later, nobody knows: its name is left alone.
			name := "o-" + text
			if code, answer := l.ask("POST", kubeLoadPath, configMap(name, text)); code == 201 {
				l.wrote(answer)
				names = append(names, name)
			} else {
				l.fail("POST", code, answer)
				continue
			}
		case i%7 == 0:
			name := names[0]
			names = names[1:]
			l.mark(name, func(e *kubeEntry) { e.leaves = true })
			if !l.remove(name) {
				return
			}
		default:
			if !l.update(names[i%len(names)], text) {
				return
			}
		}
		gap := time.Since(last).Milliseconds()
		last = time.Now()
		for longest := l.longest.Load(); gap > longest && !l.longest.CompareAndSwap(longest, gap); {
			longest = l.longest.Load()
		}
	}
}

// fail notes a failure; a server that is overloaded or cannot reach its store says so, a lost object not.
func (l *kubeLoad) fail(what string, code int, answer object) {
	l.failed.Add(1)
	if code >= 400 && code < 500 && code != http.StatusConflict && code != http.StatusTooManyRequests {
		l.t.Errorf("%s: %d %v", what, code, answer["message"])
	}
	time.Sleep(50 * time.Millisecond)
}

// update changes an object until one change is acknowledged; false at the end of the test.
func (l *kubeLoad) update(name, text string) bool {
	for attempt := 0; !l.stopped(); attempt++ {
		code, found := l.ask("GET", kubeLoadPath+"/"+name, nil)
		if code == http.StatusNotFound {
			l.t.Errorf("%s was acknowledged and is lost", name)
			return false
		}
		if code != 200 {
			l.fail("GET "+name, code, found)
			continue
		}
		l.mu.Lock()
		known := l.entries[name]
		l.mu.Unlock()
		if version := versionOf(found); version < known.version ||
			version == known.version && textOf(found) != known.text {
			l.t.Errorf("%s is %q at %d, acknowledged was %q at %d", name, textOf(found), version,
				known.text, known.version)
			return false
		}
		changed := configMap(name, fmt.Sprintf("%s-%d", text, attempt))
		meta(changed)["resourceVersion"] = resourceVersion(found)
		code, answer := l.ask("PUT", kubeLoadPath+"/"+name, changed)
		if code == 200 {
			l.wrote(answer)
			return true
		}
		l.fail("PUT "+name, code, answer)
	}
	return true
}

// remove deletes an object until that is certain.
func (l *kubeLoad) remove(name string) bool {
	for asked := false; !l.stopped(); asked = true {
		code, answer := l.ask("DELETE", kubeLoadPath+"/"+name, nil)
		if code == 200 || code == http.StatusNotFound && asked {
			l.mark(name, func(e *kubeEntry) { e.gone = true })
			l.acknowledged.Add(1)
			return true
		}
		l.fail("DELETE "+name, code, answer)
	}
	return true
}

func (l *kubeLoad) known() map[string]kubeEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := make(map[string]kubeEntry, len(l.entries))
	for name, entry := range l.entries {
		known[name] = entry
	}
	return known
}

// list compares consistent lists with what was acknowledged before they were asked for.
func (l *kubeLoad) list() {
	for round := 0; !l.stopped(); round++ {
		before := l.known()
		path := kubeLoadPath
		if round%2 == 1 {
			path += "?limit=500"
		}
		code, answer := l.ask("GET", path, nil)
		if code != 200 {
			l.fail("list", code, answer)
			continue
		}
		l.lists.Add(1)
		l.compare(before, l.known(), answer)
		time.Sleep(100 * time.Millisecond)
	}
}

// compare checks a list that was asked for after `before` and answered before `after`.
func (l *kubeLoad) compare(before, after map[string]kubeEntry, list object) {
	listed := map[string]object{}
	for _, item := range list["items"].([]any) {
		listed[nameOf(item.(object))] = item.(object)
	}
	at := resourceVersion(list)
	for name, known := range before {
		item, found := listed[name]
		switch {
		case known.gone && found:
			l.t.Errorf("the list at %s has %s, whose delete was acknowledged", at, name)
		case known.gone || after[name].leaves && !found:
		case !found:
			l.t.Errorf("the list at %s lacks %s, acknowledged at %d", at, name, known.version)
		case versionOf(item) < known.version:
			l.t.Errorf("the list at %s has %s at %d, acknowledged was %d", at, name, versionOf(item), known.version)
		case versionOf(item) == known.version && textOf(item) != known.text:
			l.t.Errorf("%s is %q, acknowledged was %q", name, textOf(item), known.text)
		}
	}
}

// kubeReflector lists once, watches, and goes on from where a watch ended, as the caches of all controllers
// do. It lists again only when it is told that history is gone.
type kubeReflector struct {
	load   *kubeLoad
	cancel context.CancelFunc
	done   chan struct{}

	mu sync.Mutex
	// objects is the cache: text and version by name.
	objects map[string]kubeEntry
	// events are the versions of which it was told, and how.
	events map[int64]string
	// first is the version of the first list, at that of the last event or bookmark.
	first, at int64
	// relisted are the spans of versions of which lists told instead of events.
	relisted [][2]int64
	watches  int
}

func newKubeReflector(l *kubeLoad) *kubeReflector {
	c, cancel := context.WithCancel(context.Background())
	r := &kubeReflector{load: l, cancel: cancel, done: make(chan struct{}), objects: map[string]kubeEntry{},
		events: map[int64]string{}}
	l.t.Cleanup(r.stop)
	go r.run(c)
	return r
}

func (r *kubeReflector) stop() {
	r.cancel()
	<-r.done
}

func (r *kubeReflector) run(c context.Context) {
	defer close(r.done)
	for relist := true; c.Err() == nil; {
		if relist && !r.list() {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		relist = r.watch(c)
	}
}

func (r *kubeReflector) list() bool {
	code, answer := r.load.ask("GET", kubeLoadPath, nil)
	if code != 200 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := versionOf(answer)
	if r.first == 0 {
		r.first = at
	} else {
		r.relisted = append(r.relisted, [2]int64{r.at, at})
	}
	r.at = max(r.at, at)
	r.objects = map[string]kubeEntry{}
	for _, item := range answer["items"].([]any) {
		o := item.(object)
		r.objects[nameOf(o)] = kubeEntry{version: versionOf(o), text: textOf(o)}
	}
	return true
}

// watch watches until the stream ends; whether history is gone.
func (r *kubeReflector) watch(c context.Context) bool {
	r.mu.Lock()
	from := r.at
	r.watches++
	r.mu.Unlock()
	path := fmt.Sprintf("%s%s?watch=1&allowWatchBookmarks=true&timeoutSeconds=20&resourceVersion=%d",
		r.load.k.url, kubeLoadPath, from)
	request, err := http.NewRequestWithContext(c, "GET", path, nil)
	if err != nil {
		return false
	}
	response, err := r.load.k.client.Do(request)
	if err != nil {
		time.Sleep(100 * time.Millisecond)
		return false
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		_, _ = io.Copy(io.Discard, response.Body)
		time.Sleep(100 * time.Millisecond)
		return response.StatusCode == http.StatusGone
	}
	decoder := json.NewDecoder(response.Body)
	for {
		var event struct {
			Type   string
			Object object
		}
		if decoder.Decode(&event) != nil {
			return false
		}
		if event.Type == "ERROR" {
			code, _ := event.Object["code"].(float64)
			return int(code) == http.StatusGone
		}
		r.take(event.Type, event.Object)
	}
}

func (r *kubeReflector) take(kind string, o object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	version := versionOf(o)
	if kind == "BOOKMARK" {
		if version < r.at {
			r.load.t.Errorf("a bookmark at %d after %d", version, r.at)
		}
		r.at = max(r.at, version)
		return
	}
	name := nameOf(o)
	what := fmt.Sprintf("%s %s=%s", kind, name, textOf(o))
	if version <= r.at {
		r.load.t.Errorf("%s at %d comes after %d", what, version, r.at)
	}
	before, has := r.objects[name]
	if has == (kind == "ADDED") {
		r.load.t.Errorf("%s at %d, where the object was %+v", what, version, before)
	}
	r.events[version] = what
	r.at = max(r.at, version)
	if kind == "DELETED" {
		delete(r.objects, name)
	} else {
		r.objects[name] = kubeEntry{version: version, text: textOf(o)}
	}
}

// missing are the acknowledged writes of which it was not told: neither by an event, nor by a list.
func (r *kubeReflector) missing(writes map[int64]string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var missing []string
	for version, write := range writes {
		told := version <= r.first
		for _, span := range r.relisted {
			told = told || version > span[0] && version <= span[1]
		}
		event := r.events[version]
		if !told && event != "ADDED "+write && event != "MODIFIED "+write {
			missing = append(missing, fmt.Sprintf("%s at %d (it saw %q)", write, version, event))
		}
	}
	return missing
}
