package interop

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Cases of etcd's own suite that need no users, on one member and on three, with certificates of the
// suite and with those that members make for themselves. TestAlarm is left out because it waits for an
// alarm to be disarmed that keepd has cleared by itself: see TestQuota.
const suiteTests = "^(TestKVPut|TestKVGet|TestKVGetStream|TestKVDelete|TestTxnSucc|TestTxnFail|TestWatch|" +
	"TestLeaseGrantTimeToLive|TestLeaseGrantAndList|TestLeaseGrantTimeToLiveExpired|" +
	"TestLeaseGrantKeepAliveOnce|TestLeaseGrantRevoke|TestAlarmlistOnMemberRestart|" +
	"TestStatus|TestMemberList|TestWaitLeader|TestEndpointStatus|TestEndpointHashKV|" +
	"TestEndpointHealth|TestDefragOnline)$"

// membersTests take long, and etcdctl is not what they ask about.
const membersTests = "^(TestMemberAdd|TestMemberRemove|TestKVGetNoQuorum|TestWaitLeader_MemberStop)$"

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
				runSuite(t, program, bin, suiteTests, 180)
				if flavor.IsKeepd() && !own {
					runSuite(t, program, bin, membersTests, 25)
				}
			})
		}
	}
}

func runSuite(t *testing.T, program, bin, tests string, passedMin int) {
	t.Helper()
	// The tests look for certificates beside their own sources.
	sources := harness.ModuleDir(t, "suite", "go.etcd.io/etcd/tests/v3")
	log := filepath.Join(t.TempDir(), "suite.log")
	passed := 0
	process := harness.StartProcessIn(t, filepath.Join(sources, "common"), log, nil, program, "-test.v",
		"-test.timeout=8m", "-test.run="+tests, "-bin-dir="+bin)
	equal(t, "exit code", process.Wait(t, harness.SuiteLimit), 0)
	output := must(os.ReadFile(log))(t)
	for _, line := range strings.Split(string(output), "\n") {
		switch match := suiteResult.FindStringSubmatch(line); {
		case match == nil:
		case match[1] == "FAIL":
			t.Errorf("%s fails", match[2])
		default:
			passed++
		}
	}
	if passed < passedMin {
		t.Errorf("only %d cases passed", passed)
	}
}
