package interop

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// keysOfAge makes an age identity with the reference program; the identity's file and the recipient.
func keysOfAge(t *testing.T) (string, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key.txt")
	keygen := harness.BackupTool(t, "age-keygen")
	harness.MustRun(t, nil, keygen, "-o", file)
	return file, strings.TrimSpace(harness.MustRun(t, nil, keygen, "-y", file))
}

// backupOf runs `keepd backup` with an environment.
func backupOf(t *testing.T, env []string, args ...string) harness.Output {
	t.Helper()
	return harness.Run(t, env, "", harness.KeepdBin(), append([]string{"backup"}, args...)...)
}

func mustBackup(t *testing.T, env []string, args ...string) string {
	t.Helper()
	out := backupOf(t, env, args...)
	if out.Code != 0 {
		t.Fatalf("keepd backup %s: exit %d\n%s%s", strings.Join(args, " "), out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout
}

// newest is the name and the cluster of the last backup of a place.
func newest(t *testing.T, env []string, place string) (string, string) {
	t.Helper()
	var listed struct {
		Backups []struct {
			Name    string `json:"name"`
			Cluster string `json:"cluster_id"`
			Proven  bool   `json:"is_proven"`
		} `json:"backups"`
	}
	if err := json.Unmarshal([]byte(mustBackup(t, env, "list", place, "-w", "json")), &listed); err != nil {
		t.Fatal(err)
	}
	last := listed.Backups[len(listed.Backups)-1]
	equal(t, "proven", last.Proven, true)
	return last.Name, last.Cluster
}

// TestBackupsOpenByHand backs up etcd and keepd, opens the backups with age alone and has etcd restore them;
// and keepd opens what age has sealed.
func TestBackupsOpenByHand(t *testing.T) {
	harness.NeedKeepd(t)
	identity, recipient := keysOfAge(t)
	for _, flavor := range []harness.Flavor{harness.Etcd, harness.Keepd} {
		t.Run(string(flavor), func(t *testing.T) { openByHand(t, flavor, identity, recipient) })
	}
}

func openByHand(t *testing.T, flavor harness.Flavor, identity, recipient string) {
	s := harness.Start(t, harness.Options{Flavor: flavor})
	a := newAPI(t, s)
	a.fill()
	want := a.contents()
	place := "file://" + filepath.Join(t.TempDir(), "place")
	args := append([]string{"now", "--to", place, "-r", recipient}, s.CtlArgs()...)
	mustBackup(t, nil, args...)
	name, cluster := newest(t, nil, place)
	object := filepath.Join(strings.TrimPrefix(place, "file://"), cluster, "base", name)

	snapshot := filepath.Join(t.TempDir(), "snapshot.db")
	byHand := exec.Command("sh", "-c", `"$0" -d -i "$1" "$2" | zstd -d > "$3"`,
		harness.BackupTool(t, "age"), identity, object, snapshot)
	if out, err := byHand.CombinedOutput(); err != nil {
		t.Fatalf("by hand: %v\n%s", err, out)
	}
	restored := restore(t, realTool(t, "etcdutl"), snapshot, harness.Etcd, "")
	wantSame(t, restored, want)

	downloaded := filepath.Join(t.TempDir(), "downloaded.db")
	mustBackup(t, nil, "download", place, "-o", downloaded, "-i", identity)
	equal(t, "the same by hand", string(must(os.ReadFile(downloaded))(t)), string(must(os.ReadFile(snapshot))(t)))

	// The other way: what the reference program sealed takes the place of the object.
	sealed := filepath.Join(t.TempDir(), "sealed")
	again := exec.Command("sh", "-c", `zstd -c "$3" | "$0" -r "$1" > "$2"`,
		harness.BackupTool(t, "age"), recipient, sealed, snapshot)
	if out, err := again.CombinedOutput(); err != nil {
		t.Fatalf("sealed by age: %v\n%s", err, out)
	}
	content := must(os.ReadFile(sealed))(t)
	side := object + ".json"
	var sidecar map[string]any
	if err := json.Unmarshal(must(os.ReadFile(side))(t), &sidecar); err != nil {
		t.Fatal(err)
	}
	sidecar["bytes"] = len(content)
	sidecar["sha256"] = fmt.Sprintf("%x", sha256.Sum256(content))
	text := must(json.Marshal(sidecar))(t)
	for path, bytes := range map[string][]byte{object: content, side: text} {
		if err := os.WriteFile(path, bytes, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustBackup(t, nil, "drill", place, "-i", identity)
}

// gateway starts versitygw, an S3 server over a folder; its URL and the folder.
func gateway(t *testing.T, extra ...string) (string, string) {
	t.Helper()
	folder, port := t.TempDir(), harness.FreePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	args := append([]string{"--access", "user", "--secret", "secret-of-s3", "--port", address}, extra...)
	cmd := exec.Command(harness.BackupTool(t, "versitygw"), append(args, "posix", folder)...)
	cmd.Dir = t.TempDir()
	log := must(os.Create(filepath.Join(cmd.Dir, "log")))(t)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return address, folder
		}
		if time.Now().After(deadline) {
			t.Fatalf("versitygw does not listen: %v\n%s", err, must(os.ReadFile(log.Name()))(t))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

var s3Credentials = []string{"AWS_ACCESS_KEY_ID=user", "AWS_SECRET_ACCESS_KEY=secret-of-s3", "AWS_REGION=us-east-1"}

// TestBackupsInS3 runs every command against a real S3 server: parts, ranges, pages, errors.
func TestBackupsInS3(t *testing.T) {
	harness.NeedKeepd(t)
	identity, recipient := keysOfAge(t)
	address, folder := gateway(t)
	if err := os.Mkdir(filepath.Join(folder, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	place := "s3://bucket/some/prefix?endpoint=http://" + address
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd})
	a := newAPI(t, s)
	// Random enough not to be compressed away: several parts of 8 MiB.
	big := make([]byte, 1<<20)
	random := must(os.Open("/dev/urandom"))(t)
	for i := range 24 {
		must(io.ReadFull(random, big))(t)
		a.put(fmt.Sprintf("big%d", i), string(big))
	}
	a.fill()
	want := a.contents()
	args := append([]string{"now", "--to", place, "-r", recipient}, s.CtlArgs()...)
	mustBackup(t, s3Credentials, args...)
	name, cluster := newest(t, s3Credentials, place)
	object := filepath.Join(folder, "bucket", "some/prefix", cluster, "base", name)
	if size := must(os.Stat(object))(t).Size(); size < 20<<20 {
		t.Fatalf("the object has %d bytes only", size)
	}
	if strings.Contains(string(must(os.ReadFile(object))(t)), "/registry/secrets") {
		t.Error("the object shows keys")
	}
	mustBackup(t, s3Credentials, "drill", place, "-i", identity)
	mustBackup(t, s3Credentials, "verify", place, name, "-i", identity)
	local := "file://" + filepath.Join(t.TempDir(), "copy")
	mustBackup(t, s3Credentials, "copy", place, local)
	mustBackup(t, nil, "drill", local, "-i", identity)
	mustBackup(t, s3Credentials, "copy", local, strings.Replace(place, "prefix", "second", 1))

	prepared := harness.Prepare(t, harness.Options{Flavor: harness.Keepd})
	mustBackup(t, s3Credentials, "restore", place, "--data-dir", prepared.DataDir, "-i", identity, "--yes",
		"--bump-revision=0", "--name="+prepared.Name, "--initial-advertise-peer-urls="+prepared.PeerURL)
	prepared.Launch()
	prepared.WaitReady()
	wantSame(t, newAPI(t, prepared), want)

	// A damaged and a cut object.
	content := must(os.ReadFile(object))(t)
	content[len(content)/2] ^= 1
	if err := os.WriteFile(object, content, 0o600); err != nil {
		t.Fatal(err)
	}
	out := backupOf(t, s3Credentials, "verify", place, name, "-i", identity)
	if out.Code != 4 || !strings.Contains(out.Stderr, "damaged") {
		t.Errorf("a damaged object: exit %d, %s", out.Code, out.Stderr)
	}
	mustBackup(t, s3Credentials, "prune", place, "--name", name, "--yes")
	if !strings.Contains(mustBackup(t, s3Credentials, "list", place), "no backups") {
		t.Error("it is still listed")
	}

	for _, wrong := range []struct {
		what, place string
		env         []string
		advice      string
	}{
		{"no bucket", "s3://other/p?endpoint=http://" + address, s3Credentials, "no such bucket"},
		{"a wrong secret", place, []string{"AWS_ACCESS_KEY_ID=user", "AWS_SECRET_ACCESS_KEY=no"}, "Credentials are missing or unknown"},
		{"a wrong user", place, []string{"AWS_ACCESS_KEY_ID=no", "AWS_SECRET_ACCESS_KEY=no"}, "Credentials are missing or unknown"},
		{"a wrong region", place + "&region=eu-west-9", s3Credentials, "in another region"},
		{"TLS to a plain port", "s3://bucket/p?endpoint=https://" + address, s3Credentials, "TLS failed"},
	} {
		out := backupOf(t, wrong.env, "list", wrong.place)
		if out.Code != 1 || !strings.Contains(out.Stderr, wrong.advice) {
			t.Errorf("%s: exit %d, without %q: %s%s", wrong.what, out.Code, wrong.advice, out.Stdout, out.Stderr)
		}
	}
}

// flaky answers some requests to an S3 server with 503 and breaks others off.
func flaky(t *testing.T, address string) string {
	t.Helper()
	requests := 0
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		if requests%3 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if requests%7 == 0 {
			panic(http.ErrAbortHandler)
		}
		forward, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+address+r.URL.RequestURI(), r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		forward.Header, forward.Host, forward.ContentLength = r.Header, r.Host, r.ContentLength
		answer, err := http.DefaultTransport.RoundTrip(forward)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer answer.Body.Close()
		for name, values := range answer.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, answer.Body)
	})}
	go func() { _ = proxy.Serve(listener) }()
	t.Cleanup(func() { _ = proxy.Close() })
	return listener.Addr().String()
}

// TestBackupsThroughAFlakyStore has a third of all requests fail.
func TestBackupsThroughAFlakyStore(t *testing.T) {
	harness.NeedKeepd(t)
	identity, recipient := keysOfAge(t)
	address, folder := gateway(t)
	if err := os.Mkdir(filepath.Join(folder, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	place := "s3://bucket/p?endpoint=http://" + flaky(t, address)
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd})
	a := newAPI(t, s)
	a.fill()
	args := append([]string{"now", "--to", place, "-r", recipient}, s.CtlArgs()...)
	mustBackup(t, s3Credentials, args...)
	newest(t, s3Credentials, place)
	mustBackup(t, s3Credentials, "drill", place, "-i", identity)
}
