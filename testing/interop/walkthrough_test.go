package interop

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

func secretsConfig(secret string) string {
	return `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
      - secrets
    providers:
      - aescbc:
          keys:
            - name: key1
              secret: ` + secret + `
      - identity: {}
`
}

const (
	// A key of 14 bytes, as a widely copied example has it.
	shortKey = "MTIzNDU2Nzg5MDEyMzQ="
	goodKey  = "c2VjcmV0IGlzIHNlY3VyZSwgb3IgaXMgaXQ/IDEyMzQ="
)

// How people secure this store today, step by step: an EncryptionConfiguration, certificates by
// openssl, snapshot save and restore with etcdctl.
func TestTheOperatorsWalkThrough(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		if flavor != harness.KeepdSealed {
			continue
		}
		t.Run(string(flavor), func(t *testing.T) {
			refused := harness.Prepare(t, harness.Options{Flavor: flavor, Encryption: secretsConfig(shortKey)})
			refused.Launch()
			equal(t, "a short key is refused", refused.Wait(t, 20*time.Second) != 0, true)
			reason := refused.Tail(4000)
			for _, word := range []string{"got 14", "[16 24 32]", "keepd encryption keygen"} {
				if !strings.Contains(reason, word) {
					t.Errorf("the refusal does not name %q:\n%s", word, reason)
				}
			}
			if strings.Contains(reason, shortKey) {
				t.Error("the refusal prints the key")
			}

			pki := harness.OpenSSL(t)
			a := newAPI(t, harness.Start(t, harness.Options{Flavor: flavor, PKI: pki,
				Encryption: secretsConfig(goodKey)}))
			a.MustCtl("put", "/registry/secrets/default/db", "canary-secret-kq7vx3")
			a.MustCtl("put", "/registry/configmaps/default/cm", "not a secret")
			equal(t, "transparent", a.MustCtl("get", "/registry/secrets/default/db", "--print-value-only"),
				"canary-secret-kq7vx3\n")

			dir := t.TempDir()
			file := filepath.Join(dir, "backup.db")
			own := ownTool("etcdctl")
			save := append(append([]string{}, own.args...), "snapshot", "save", file,
				"--endpoints="+a.ClientURL, "--cacert="+pki.Path("ca.crt"),
				"--cert="+pki.Path("client.crt"), "--key="+pki.Path("client.key"))
			out := harness.Run(t, []string{"ETCDCTL_API=3"}, "", own.path, save...)
			equal(t, "save", out.Code, 0)
			content := must(os.ReadFile(file))(t)
			equal(t, "the secret is not in the file", bytes.Contains(content, []byte("canary-secret")), false)
			equal(t, "its ciphertext is", bytes.Contains(content, []byte("k8s:enc:aescbc:v1:key1:")), true)
			equal(t, "what no rule covers is plain", bytes.Contains(content, []byte("not a secret")), true)

			before := a.contentsOf("/registry/")
			a.MustCtl("del", "/registry/", "--prefix")
			a.Terminate(t)
			restored := harness.Prepare(t, harness.Options{Flavor: flavor, PKI: pki,
				Encryption: secretsConfig(goodKey)})
			own.must(t, "snapshot", "restore", file, "--data-dir="+restored.DataDir,
				"--name="+restored.Name, "--initial-cluster="+restored.InitialCluster,
				"--initial-advertise-peer-urls="+restored.PeerURL)
			restored.Launch()
			restored.WaitReady()
			b := newAPI(t, restored)
			equal(t, "all is back", b.contentsOf("/registry/"), before)
			b.Terminate(t)
			c := canaries{}
			c.add("secret", "canary-secret-kq7vx3")
			c.add("other", "not a secret")
			for where := range c.sightings(t, restored.DataDir, restored.LogFile) {
				t.Errorf("found %s in the restored store", where)
			}
		})
	}
}

func (a *api) contentsOf(prefix string) string {
	a.t.Helper()
	return a.MustCtl("get", prefix, "--prefix")
}
