package interop

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Cases of etcd's own suite that need no more than one member and no users. TestAlarm is left out
// because it waits for an alarm to be disarmed that keepd has cleared by itself: see TestQuota.
const (
	suiteTests = "^(TestKVPut|TestKVGet|TestKVGetStream|TestKVDelete|TestTxnSucc|TestTxnFail|TestWatch|" +
		"TestLeaseGrantTimeToLive|TestLeaseGrantAndList|TestLeaseGrantTimeToLiveExpired|" +
		"TestLeaseGrantKeepAliveOnce|TestLeaseGrantRevoke|TestAlarmlistOnMemberRestart|" +
		"TestStatus|TestMemberList|TestWaitLeader)$"
	suiteClusters = "^NoTLS$"
)

var suiteResult = regexp.MustCompile(`^\s*--- (PASS|FAIL): (\S+)`)

// etcd's own end-to-end tests, unchanged, with keepd in the place of the server: once with etcd's
// etcdctl, once with keepd's.
func TestEtcdsOwnSuite(t *testing.T) {
	t.Parallel()
	program := harness.SuiteTool(t, "common.test")
	for _, flavor := range harness.Flavors() {
		if flavor == harness.KeepdSealed {
			continue
		}
		for _, own := range []bool{false, true} {
			name := string(flavor)
			if own {
				name += " with its own etcdctl"
			}
			if own && !flavor.IsKeepd() {
				continue
			}
			t.Run(name, func(t *testing.T) {
				bin := t.TempDir()
				for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
					target := harness.EtcdTool(t, tool)
					if flavor.IsKeepd() && (tool == "etcd" || own) {
						target = harness.KeepdBin()
					}
					if err := os.Symlink(target, filepath.Join(bin, tool)); err != nil {
						t.Fatal(err)
					}
				}
				runSuite(t, program, bin)
			})
		}
	}
}

func runSuite(t *testing.T, program, bin string) {
	t.Helper()
	// The tests look for certificates beside their own sources.
	sources := harness.ModuleDir(t, "suite", "go.etcd.io/etcd/tests/v3")
	log := filepath.Join(t.TempDir(), "suite.log")
	process := harness.StartProcessIn(t, filepath.Join(sources, "common"), log, nil, program, "-test.v",
		"-test.timeout=8m", "-test.run="+suiteTests+"/"+suiteClusters, "-bin-dir="+bin)
	code := process.Wait(t, harness.SuiteLimit)
	output := must(os.ReadFile(log))(t)
	passed := 0
	for _, line := range strings.Split(string(output), "\n") {
		switch match := suiteResult.FindStringSubmatch(line); {
		case match == nil:
		case match[1] == "FAIL":
			t.Errorf("%s fails", match[2])
		default:
			passed++
		}
	}
	equal(t, "exit code", code, 0)
	if passed < 120 {
		t.Errorf("only %d cases passed", passed)
	}
}
