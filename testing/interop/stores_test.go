package interop

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
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

// objectStore is a running object store with an empty bucket.
type objectStore struct {
	// place is the URL of a prefix in the bucket, with all options.
	place string
	// env has the credentials.
	env []string
	// missing is the URL of a bucket that is not there; empty where the emulator answers otherwise than the
	// real store.
	missing string
	// wrong are credentials that are refused; none where the emulator takes all.
	wrong []string
	// mebibytes is the least size of a backup, for more than one part where the store knows parts.
	mebibytes int
}

// TestBackupsInObjectStores runs every command against MinIO, Azure's emulator and one of Google's.
func TestBackupsInObjectStores(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	identity, recipient := keysOfAge(t)
	for name, start := range map[string]func(*testing.T) objectStore{
		"minio": startMinio, "azurite": startAzurite, "fake-gcs-server": startFakeGCS,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everyCommand(t, start(t), identity, recipient)
		})
	}
}

func everyCommand(t *testing.T, store objectStore, identity, recipient string) {
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd})
	a := newAPI(t, s)
	fillRandom(t, a, store.mebibytes)
	a.fill()
	want := a.contents()
	args := append([]string{"now", "--to", store.place, "-r", recipient}, s.CtlArgs()...)
	mustBackup(t, store.env, args...)
	mustBackup(t, store.env, args...)
	name, _ := newest(t, store.env, store.place)
	mustBackup(t, store.env, "drill", store.place, "-i", identity)
	mustBackup(t, store.env, "verify", store.place, name, "-i", identity)
	local := "file://" + filepath.Join(t.TempDir(), "copy")
	mustBackup(t, store.env, "copy", store.place, local)
	mustBackup(t, nil, "drill", local, "-i", identity)
	second := strings.Replace(store.place, "prefix", "second", 1)
	mustBackup(t, store.env, "copy", local, second)
	mustBackup(t, store.env, "drill", second, "-i", identity)

	prepared := harness.Prepare(t, harness.Options{Flavor: harness.Keepd})
	mustBackup(t, store.env, "restore", store.place, "--data-dir", prepared.DataDir, "-i", identity, "--yes",
		"--bump-revision=0", "--name="+prepared.Name, "--initial-advertise-peer-urls="+prepared.PeerURL)
	prepared.Launch()
	prepared.WaitReady()
	wantSame(t, newAPI(t, prepared), want)

	mustBackup(t, store.env, "prune", store.place, "--name", name, "--yes")
	if strings.Contains(mustBackup(t, store.env, "list", store.place), name) {
		t.Error("it is still listed")
	}
	older, _ := newest(t, store.env, store.place)
	equal(t, "the other one stays", older != name, true)

	if store.missing != "" {
		wantRefused(t, store.env, store.missing, "no such bucket")
	}
	if store.wrong != nil {
		wantRefused(t, store.wrong, store.place, "Credentials are missing or unknown")
	}
	if scheme, rest, ok := strings.Cut(store.place, "&ca="); ok && rest != "" {
		wantRefused(t, store.env, scheme, "TLS failed")
	}
}

func wantRefused(t *testing.T, env []string, place, advice string) {
	t.Helper()
	out := backupOf(t, env, "list", place)
	if out.Code != 1 || !strings.Contains(out.Stderr, advice) {
		t.Errorf("list %s: exit %d, without %q: %s%s", place, out.Code, advice, out.Stdout, out.Stderr)
	}
}

// fillRandom writes what no compression makes smaller.
func fillRandom(t *testing.T, a *api, mebibytes int) {
	t.Helper()
	big := make([]byte, 1<<20)
	random := must(os.Open("/dev/urandom"))(t)
	defer random.Close()
	for i := range mebibytes {
		must(io.ReadFull(random, big))(t)
		a.put(fmt.Sprintf("big%d", i), string(big))
	}
}

// serve starts an object store and waits until it listens.
func serve(t *testing.T, env []string, address, program string, args ...string) *harness.Process {
	t.Helper()
	process := harness.StartProcess(t, filepath.Join(t.TempDir(), "log"), env, program, args...)
	harness.Eventually(t, time.Minute, program+" listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			if process.Exited() {
				t.Fatalf("%s ended\n%s", program, process.Tail(4000))
			}
			return false
		}
		conn.Close()
		return true
	})
	return process
}

func freeAddress(t *testing.T) string {
	return fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
}

// startMinio starts MinIO with TLS.
func startMinio(t *testing.T) objectStore {
	address, folder, certificates := freeAddress(t), t.TempDir(), t.TempDir()
	pki := harness.OpenSSL(t)
	for from, to := range map[string]string{"server.crt": "public.crt", "server.key": "private.key"} {
		copyFile(t, pki.Path(from), filepath.Join(certificates, to))
	}
	if err := os.Mkdir(filepath.Join(folder, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	env := []string{"MINIO_ROOT_USER=user", "MINIO_ROOT_PASSWORD=secret-of-s3", "MINIO_UPDATE=off", "MINIO_BROWSER=off"}
	serve(t, env, address, harness.StoreTool(t, "minio"), "server", "--address", address,
		"--certs-dir", certificates, folder)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: pki.AnonymousTLS(t)}}
	harness.Eventually(t, time.Minute, "MinIO is ready", func() bool {
		answer, err := client.Get("https://" + address + "/minio/health/ready")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	options := "?endpoint=https://" + address + "&ca=" + pki.Path("ca.crt")
	return objectStore{
		place: "s3://bucket/some/prefix" + options, env: s3Credentials,
		missing:   "s3://other/p" + options,
		wrong:     []string{"AWS_ACCESS_KEY_ID=user", "AWS_SECRET_ACCESS_KEY=no", "AWS_REGION=us-east-1"},
		mebibytes: 20,
	}
}

// The account that Azurite serves, and its key, both as documented.
const (
	azureAccount = "devstoreaccount1"
	azureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// startAzurite starts Azure's emulator of its blob storage.
func startAzurite(t *testing.T) objectStore {
	address := freeAddress(t)
	host, port, _ := net.SplitHostPort(address)
	serve(t, nil, address, harness.AzuriteTool(t), "--location", t.TempDir(), "--blobHost", host,
		"--blobPort", port, "--silent", "--disableTelemetry")
	createContainer(t, address)
	options := "?account=" + azureAccount + "&endpoint=http://" + address + "/" + azureAccount
	key := "AZURE_STORAGE_ACCOUNT_KEY="
	return objectStore{
		place: "az://bucket/some/prefix" + options, env: []string{key + azureKey},
		missing:   "az://other/p" + options,
		wrong:     []string{key + base64.StdEncoding.EncodeToString([]byte("no"))},
		mebibytes: 20,
	}
}

// createContainer makes the container "bucket" with a request that is signed by hand.
func createContainer(t *testing.T, address string) {
	t.Helper()
	path := "/" + azureAccount + "/bucket"
	request := must(http.NewRequest(http.MethodPut, "http://"+address+path+"?restype=container", nil))(t)
	date := time.Now().UTC().Format(http.TimeFormat)
	request.Header.Set("x-ms-date", date)
	request.Header.Set("x-ms-version", "2021-08-06")
	signed := "PUT" + strings.Repeat("\n", 12) + "x-ms-date:" + date + "\nx-ms-version:2021-08-06\n" +
		"/" + azureAccount + path + "\nrestype:container"
	mac := hmac.New(sha256.New, must(base64.StdEncoding.DecodeString(azureKey))(t))
	mac.Write([]byte(signed))
	request.Header.Set("Authorization",
		"SharedKey "+azureAccount+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	answer := must(http.DefaultClient.Do(request))(t)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("create a container: %s\n%s", answer.Status, must(io.ReadAll(answer.Body))(t))
	}
}

// startFakeGCS starts an emulator of Google's storage, behind a proxy with TLS. It knows no uploads in parts,
// takes all credentials, and answers 500 for a missing bucket.
func startFakeGCS(t *testing.T) objectStore {
	address, folder := freeAddress(t), t.TempDir()
	host, port, _ := net.SplitHostPort(address)
	if err := os.Mkdir(filepath.Join(folder, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	pki := harness.OpenSSL(t)
	proxy := uploadsAsSigned(t, pki, address)
	serve(t, nil, address, harness.StoreTool(t, "fake-gcs-server"), "-scheme", "http", "-host", host,
		"-port", port, "-public-host", proxy, "-filesystem-root", folder, "-log-level", "warn")
	account := pki.Write(t, "account.json",
		`{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}`)
	return objectStore{
		place: "gs://bucket/some/prefix?endpoint=https://" + proxy + "&credentials=" + account +
			"&ca=" + pki.Path("ca.crt"),
		mebibytes: 2,
	}
}

// uploadsAsSigned marks uploads as those to a signed URL: of the XML protocol's uploads the emulator knows
// only these, and it tells their ETag in the body alone.
func uploadsAsSigned(t *testing.T, pki *harness.PKI, address string) string {
	t.Helper()
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", address
			if r.Out.Method == http.MethodPut {
				r.Out.URL.RawQuery = "X-Goog-Algorithm=GOOG4-RSA-SHA256"
			}
		},
		ModifyResponse: func(answer *http.Response) error {
			if answer.Request.Method != http.MethodPut {
				return nil
			}
			content, err := io.ReadAll(answer.Body)
			answer.Body = io.NopCloser(bytes.NewReader(content))
			var object struct{ Etag string }
			if err == nil && json.Unmarshal(content, &object) == nil {
				answer.Header.Set("ETag", object.Etag)
			}
			return err
		},
	})
	pair := must(tls.LoadX509KeyPair(pki.Path("server.crt"), pki.Path("server.key")))(t)
	proxy.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	proxy.StartTLS()
	t.Cleanup(proxy.Close)
	return proxy.Listener.Addr().String()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, must(os.ReadFile(from))(t), 0o600); err != nil {
		t.Fatal(err)
	}
}
