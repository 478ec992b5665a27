package interop

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// startGateway starts versitygw at an address, over a folder with the bucket "bucket".
func startGateway(t *testing.T, address, folder string) *harness.Process {
	t.Helper()
	return serve(t, nil, address, harness.BackupTool(t, "versitygw"), "--access", "user", "--secret",
		"secret-of-s3", "--port", address, "posix", folder)
}

func folderWithBucket(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	return folder
}

// reachable is the last revision that the shipped log of a place leads to, and the proven backups.
func reachable(t *testing.T, place string) (revision int64, proven int) {
	t.Helper()
	out := backupOf(t, nil, "list", place, "-w", "json")
	var listed struct {
		Backups []struct {
			Proven bool `json:"is_proven"`
		} `json:"backups"`
		Logs []struct {
			Windows []struct {
				Until int64 `json:"until_revision"`
			} `json:"windows"`
		} `json:"logs"`
	}
	if out.Code != 0 || json.Unmarshal([]byte(out.Stdout), &listed) != nil {
		return 0, 0
	}
	for _, backup := range listed.Backups {
		if backup.Proven {
			proven++
		}
	}
	for _, log := range listed.Logs {
		for _, window := range log.Windows {
			revision = max(revision, window.Until)
		}
	}
	return revision, proven
}

// metric is the sum of a metric's values.
func (a *api) metric(name string) (sum float64) {
	_, page := a.http("GET", "/metrics", "")
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			var value float64
			_, _ = fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value)
			sum += value
		}
	}
	return sum
}

// TestServerBacksUpToS3 has a server take backups by itself into a real S3 server and ship its log there,
// also after that was away; then everything is lost, and three moments come back.
func TestServerBacksUpToS3(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	identity, recipient := keysOfAge(t)
	address, folder := freeAddress(t), folderWithBucket(t)
	gateway := startGateway(t, address, folder)
	credentials := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = user\naws_secret_access_key = secret-of-s3\n"
	if err := os.WriteFile(credentials, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	place := "s3://bucket/of/server?region=us-east-1&endpoint=http://" + address + "&credentials=" + credentials
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd, Args: []string{
		"--backup-to=" + place, "--backup-recipient=" + recipient, "--backup-scratch-dir=" + t.TempDir(),
		"--backup-schedule=@every 5s", "--backup-log", "--backup-log-interval=500ms",
	}})
	a := newAPI(t, s)
	a.fill()
	first := a.contents()
	shipped := func(revision int64) {
		t.Helper()
		harness.Eventually(t, time.Minute, fmt.Sprintf("revision %d is shipped", revision), func() bool {
			to, proven := reachable(t, place)
			return to >= revision && proven > 0
		})
	}
	shipped(first.revision)
	// Moments that can be told apart.
	time.Sleep(time.Second)
	moment := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	time.Sleep(time.Second)

	a.put("before", "it was away")
	before := a.contents()
	gateway.Kill()
	a.put("while", "it was away")
	harness.Eventually(t, 5*time.Minute, "shipping fails", func() bool {
		return a.metric("keepd_backup_log_behind_seconds") > 5
	})
	away := a.contents()
	startGateway(t, address, folder)
	a.put("after", "it was away")
	last := a.contents()
	shipped(last.revision)
	equal(t, "gaps", a.metric("keepd_backup_log_gaps_total"), 0)
	s.Kill()
	if err := os.RemoveAll(s.DataDir); err != nil {
		t.Fatal(err)
	}

	for _, back := range []struct {
		to   []string
		want *saved
	}{
		{[]string{"--at", moment}, first},
		{[]string{"--revision", fmt.Sprint(before.revision)}, before},
		{[]string{"--revision", fmt.Sprint(away.revision)}, away},
		{nil, last},
	} {
		fresh := harness.Prepare(t, harness.Options{Flavor: harness.Keepd})
		args := []string{"restore", place, "--data-dir", fresh.DataDir, "-i", identity, "--yes",
			"--bump-revision=0", "--name=" + fresh.Name, "--initial-advertise-peer-urls=" + fresh.PeerURL}
		mustBackup(t, nil, append(args, back.to...)...)
		fresh.Launch()
		fresh.WaitReady()
		b := newAPI(t, fresh)
		equal(t, fmt.Sprint(back.to, " revision"), b.revision(), back.want.revision)
		equal(t, fmt.Sprint(back.to, " hash"), b.hashKV(back.want.revision).Hash, back.want.hash)
		equal(t, fmt.Sprint(back.to, " contents"), fmt.Sprint(b.everything(0)) == fmt.Sprint(back.want.kvs), true)
		fresh.Kill()
	}
}

// TestBackupsAmongManyObjects has a bucket whose listing comes in pages, and one that lets nobody delete.
func TestBackupsAmongManyObjects(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	_, recipient := keysOfAge(t)
	address, folder := freeAddress(t), folderWithBucket(t)
	startGateway(t, address, folder)
	place := "s3://bucket/p?endpoint=http://" + address
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd})
	newAPI(t, s).fill()
	mustBackup(t, s3Credentials, append([]string{"now", "--to", place, "-r", recipient}, s.CtlArgs()...)...)
	name, cluster := newest(t, s3Credentials, place)
	for i := range 2500 {
		// Each before the backup: it is found on the third page.
		other := filepath.Join(folder, "bucket/p", cluster, "base", fmt.Sprintf("0-%04d", i))
		if err := os.WriteFile(other, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, _ := newest(t, s3Credentials, place)
	equal(t, "found among others", found, name)

	kept := strings.Replace(place, address, withoutDelete(t, address), 1)
	out := backupOf(t, s3Credentials, "prune", kept, "--name", name, "--yes")
	if out.Code != 0 || !strings.Contains(out.Stdout+out.Stderr, name) {
		t.Errorf("exit %d: %s%s", out.Code, out.Stdout, out.Stderr)
	}
	after, _ := newest(t, s3Credentials, place)
	equal(t, "it stays", after, name)
}

// withoutDelete answers what S3 answers to who may not delete, and forwards everything else.
func withoutDelete(t *testing.T, address string) string {
	t.Helper()
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", address, r.In.Host
	}}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const denied = "<Code>AccessDenied</Code><Message>Access Denied</Message>"
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error>"+denied+"</Error>")
		case r.Method == http.MethodPost && r.URL.Query().Has("delete"):
			content, _ := io.ReadAll(r.Body)
			_, rest, _ := strings.Cut(string(content), "<Key>")
			key, _, _ := strings.Cut(rest, "</Key>")
			_, _ = io.WriteString(w, "<DeleteResult><Error><Key>"+key+"</Key>"+denied+"</Error></DeleteResult>")
		default:
			forward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(proxy.Close)
	return proxy.Listener.Addr().String()
}
