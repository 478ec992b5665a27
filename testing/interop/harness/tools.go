package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// EtcdTool is the path of one of the programs of etcd.
func EtcdTool(t testing.TB, name string) string {
	return tool(t, "KEEPD_INTEROP_ETCD", "etcd", "go.sum", name)
}

// KubeTool is the path of one of the programs of Kubernetes.
func KubeTool(t testing.TB, name string) string {
	return tool(t, "KEEPD_INTEROP_KUBE", "kube", "kube/go.sum", name)
}

// SuiteTool is one of the test programs of etcd's own end-to-end suite.
func SuiteTool(t testing.TB, name string) string {
	return tool(t, "KEEPD_INTEROP_SUITE", "suite", "suite/go.sum", name)
}

// PKITool is one of the programs that make certificates.
func PKITool(t testing.TB, name string) string {
	return tool(t, "KEEPD_INTEROP_PKI", "pki", "pki/go.sum", name)
}

// BackupTool is a program that opens backups by hand, or a server that they go to.
func BackupTool(t testing.TB, name string) string {
	return tool(t, "KEEPD_INTEROP_BACKUP", "backup", "backup/go.sum", name)
}

// StoreTool is an object store that backups go to.
func StoreTool(t testing.TB, name string) string {
	return tool(t, "KEEPD_INTEROP_STORES", "stores", "stores/go.sum", name)
}

// RulesTool checks files of alert rules with Prometheus' own code.
func RulesTool(t testing.TB) string {
	return tool(t, "KEEPD_INTEROP_RULES", "rules", "rules/go.sum", "rules")
}

// AzuriteTool is Azure's own emulator of its blob storage, a program of Node.js. Without npm there is none,
// which `cargo xtask test` says.
func AzuriteTool(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("npm is not installed")
	}
	program := filepath.Join("node_modules", ".bin", "azurite-blob")
	return tool(t, "KEEPD_INTEROP_AZURITE", "azurite", "azurite/package-lock.json", program)
}

// LoaderTool asks kube-apiserver's own loader about EncryptionConfiguration files.
func LoaderTool(t testing.TB) string {
	return tool(t, "KEEPD_INTEROP_ENCRYPTION", "encryption", "encryption/go.sum", "loader")
}

// ForeignTool is a program of others that uses etcd.
func ForeignTool(t testing.TB, name string) string {
	return tool(t, "KEEPD_INTEROP_FOREIGN", "foreign", "foreign/go.sum", name)
}

// CoreDNSTool is CoreDNS with all its plugins.
func CoreDNSTool(t testing.TB) string {
	return tool(t, "KEEPD_INTEROP_COREDNS", "coredns", "coredns/go.sum", "coredns")
}

// EnvtestTool is one of controller-runtime's own test programs.
func EnvtestTool(t testing.TB, name string) string {
	return tool(t, "KEEPD_INTEROP_ENVTEST", "envtest", "envtest/go.sum", name)
}

// KeepdBin is the keepd binary under test, or empty.
func KeepdBin() string {
	return os.Getenv("KEEPD_BIN")
}

// ModuleDir is where the sources of a dependency of one of the test modules lie.
func ModuleDir(t testing.TB, module, path string) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path)
	cmd.Dir = filepath.Join(filepath.Dir(here), "..", module)
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", path, err)
	}
	return strings.TrimSpace(string(output))
}

// SuiteLimit bounds a run of etcd's own suite.
const SuiteLimit = 9 * time.Minute

// NeedKeepd skips a test that has nothing to do without keepd.
func NeedKeepd(t testing.TB) string {
	t.Helper()
	bin := KeepdBin()
	if bin == "" {
		t.Skip("KEEPD_BIN is not set")
	}
	return bin
}

func tool(t testing.TB, variable, set, sum, name string) string {
	t.Helper()
	folder := os.Getenv(variable)
	if folder == "" {
		folder = cached(t, set, sum)
	}
	path := filepath.Join(folder, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not built (%v): run `cargo xtask tools`", name, err)
	}
	return path
}

// cached mirrors where xtask puts what it builds.
func cached(t testing.TB, set, sum string) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	content, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", sum))
	if err != nil {
		t.Fatal(err)
	}
	base := os.Getenv("KEEPD_TOOLS")
	if base == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		base = filepath.Join(cache, "keepd", "tools")
	}
	hash := sha256.Sum256(content)
	return filepath.Join(base, set+"-"+hex.EncodeToString(hash[:8]))
}
