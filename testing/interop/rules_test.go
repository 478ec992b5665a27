package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// TestAlertRules has Prometheus' own code read the rules that are shipped, and finds every metric that they
// name on the page of a member that takes backups.
func TestAlertRules(t *testing.T) {
	harness.NeedKeepd(t)
	t.Parallel()
	tool := harness.RulesTool(t)
	shipped := must(filepath.Abs("../../deploy/prometheus-rules.yaml"))(t)
	metrics := strings.Fields(harness.MustRun(t, nil, tool, shipped))
	if len(metrics) < 5 {
		t.Fatalf("the rules name %v only", metrics)
	}
	_, recipient := keysOfAge(t)
	s := harness.Start(t, harness.Options{Flavor: harness.Keepd, Args: []string{
		"--backup-to=file://" + t.TempDir(), "--backup-recipient=" + recipient,
		"--backup-scratch-dir=" + t.TempDir(), "--backup-schedule=@hourly", "--backup-log",
	}})
	a := newAPI(t, s)
	for _, metric := range metrics {
		harness.Eventually(t, time.Minute, metric+" is on the page", func() bool {
			_, page := a.http("GET", "/metrics", "")
			return strings.Contains(page, "\n"+metric+" ") || strings.Contains(page, "\n"+metric+"{")
		})
	}

	content := string(must(os.ReadFile(shipped))(t))
	for _, mistake := range [][2]string{
		{"time()", "tyme()"}, {"for: 5m", "for: 5 minutes"}, {"sum by (job)", "sum by job"},
		{"    rules:", "    rulez:"}, {"humanizeDuration", "humaniseDuration"},
	} {
		wrong := filepath.Join(t.TempDir(), "rules.yaml")
		changed := strings.Replace(content, mistake[0], mistake[1], 1)
		equal(t, mistake[0]+" is there", changed != content, true)
		if err := os.WriteFile(wrong, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := harness.Run(t, nil, "", tool, wrong); out.Code != 1 {
			t.Errorf("%s is accepted: %s", mistake[1], out.Stdout)
		}
	}
}
