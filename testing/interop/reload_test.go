package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// A reload of the encryption configuration says in the log what is written under which key from
// now on, warns of what is no longer sealed, and names no secret.
func TestAReloadSaysWhatIsSealed(t *testing.T) {
	t.Parallel()
	if harness.KeepdBin() == "" {
		t.Skip("etcd seals nothing")
	}
	const other = "c2VjcmV0IG51bWJlciB0d28gaXMgc2VjdXJlLCB0b28="
	config := func(providers ...string) string {
		return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n" +
			"resources:\n- resources: [secrets]\n  providers: [" + strings.Join(providers, ", ") + "]\n"
	}
	key := func(name, secret string) string {
		return "{name: " + name + ", secret: " + secret + "}"
	}
	cbc := func(keys ...string) string { return "{aescbc: {keys: [" + strings.Join(keys, ", ") + "]}}" }
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, two := key("key1", goodKey), key("key2", other)
	write(config(cbc(one), "{identity: {}}"))
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd, Args: []string{
		"--encryption-provider-config=" + path,
		"--encryption-provider-config-automatic-reload=true"}})
	logged := func(texts ...string) {
		t.Helper()
		harness.Eventually(t, 20*time.Second, "log of "+texts[0], func() bool {
			log := s.Tail(1 << 20)
			for _, text := range texts {
				if !strings.Contains(log, text) {
					return false
				}
			}
			return true
		})
	}
	write(config(cbc(two, one), "{identity: {}}"))
	logged("secrets: aescbc:key2", "aescbc:key2 (id ")
	if strings.Contains(s.Tail(1<<20), "from now on") {
		t.Error("everything is still sealed")
	}
	write(config("{identity: {}}", cbc(two, one)))
	logged("secrets: plain", `"resources":"secrets"`, "written PLAIN from now on",
		"encryption at rest is OFF from now on")
	if log := s.Tail(1 << 20); strings.Contains(log, goodKey) || strings.Contains(log, other) {
		t.Error("the log holds a secret")
	}
}
