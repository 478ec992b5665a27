package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// program is a command-line tool under test: real etcdctl, or keepd answering to that name.
type program struct {
	name string
	path string
	args []string
}

func realTool(t *testing.T, name string) program {
	return program{"real " + name, harness.EtcdTool(t, name), nil}
}

func ownTool(name string) program {
	return program{"keepd " + name, harness.KeepdBin(), []string{name}}
}

func (p program) run(t *testing.T, stdin string, args ...string) harness.Output {
	t.Helper()
	return harness.Run(t, nil, stdin, p.path, append(append([]string{}, p.args...), args...)...)
}

func (p program) must(t *testing.T, args ...string) string {
	t.Helper()
	return harness.MustRun(t, nil, p.path, append(append([]string{}, p.args...), args...)...)
}

// step is one command line; stdin is what follows ` <<< `.
type step struct {
	args  []string
	stdin string
}

func steps(t *testing.T, text string) []step {
	var list []step
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		line, stdin, _ := strings.Cut(strings.TrimSpace(line), " <<< ")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		args := strings.Fields(line)
		for i, arg := range args {
			if arg == `""` {
				args[i] = ""
			}
		}
		unquoted, err := strconv.Unquote(`"` + strings.ReplaceAll(stdin, `"`, `\"`) + `"`)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, step{args, unquoted})
	}
	return list
}

var masks = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`took (= )?[0-9.]+[^ \n]*s`), "took TIME"},
	{regexp.MustCompile(`"took":"[^"]*"`), `"took":"TIME"`},
	{regexp.MustCompile(`"raft_term":\d+`), `"raft_term":N`},
	{regexp.MustCompile(`"RaftTerm" : \d+`), `"RaftTerm" : N`},
	{regexp.MustCompile(`"(Raft\w*|raft\w*|dbSize\w*|DBSize\w*)"( ?): ?"?\d+"?`), `"$1"$2:N`},
	{regexp.MustCompile(`\d+(\.\d+)? [kM]?B`), "SIZE"},
	{regexp.MustCompile(`\d+%`), "N%"},
}

var tableFill = regexp.MustCompile("([ \u2500])[ \u2500]*")

// mask replaces what differs from run to run.
func mask(s *harness.Store, member, cluster uint64, text string) string {
	for id, name := range map[uint64]string{member: "MEMBER", cluster: "CLUSTER"} {
		text = strings.ReplaceAll(text, fmt.Sprint(id), name)
		text = strings.ReplaceAll(text, fmt.Sprintf("%x", id), name)
	}
	text = strings.ReplaceAll(text, s.ClientURL, "CLIENT-URL")
	text = strings.ReplaceAll(text, s.Endpoint, "ENDPOINT")
	text = strings.ReplaceAll(text, s.PeerURL, "PEER-URL")
	for _, m := range masks {
		text = m.pattern.ReplaceAllString(text, m.with)
	}
	if strings.Contains(text, "\u250c") {
		// A table is as wide as its ids, whose leading zeros are not printed.
		text = tableFill.ReplaceAllString(text, "$1")
	}
	return text
}

// lastError is the line for the user among what else goes to standard error.
func lastError(stderr string) string {
	last := ""
	for _, line := range strings.Split(stderr, "\n") {
		if strings.HasPrefix(line, "Error: ") {
			last = line
		}
	}
	return last
}

const ctlScript = `
put foo bar
put foo bar2 --prev-kv
put foo bar3 --prev-kv -w json
put foo bar4 --prev-kv -w fields
put piped <<< from stdin
put a1 v1
put a2 v2
put a3 v3
get foo
get foo -w json
get foo -w fields
get foo --hex
get foo --print-value-only
get missing
get missing -w json
get a --prefix
ge a --prefix
get a --prefix --stream
get a --prefix --keys-only
get a --prefix --limit=2 -w json
get a --prefix --order=DESCEND --sort-by=KEY
get a --prefix --sort-by=CREATE --order=descend
get a --prefix --count-only -w fields
get a1 a3
get a2 --from-key
get "" --prefix --keys-only
get foo --rev=2
get foo --rev=2 -w json
get a --prefix --min-mod-rev=8
get foo --consistency=s
del a1
del a2 --prev-kv
del a3 --prev-kv -w json
del nothing -w fields
put p1 x
put p2 x
del p --prefix
txn <<< mod("foo") > "0"\n\nput foo txn\nget foo\n\ndel foo\n\n
txn -w json <<< value("foo") = "no"\n\nput foo never\n\nget foo\ndel nothing\n\n
txn -w fields <<< version("foo") > "1"\nc("foo") = "2"\n\nget foo\n\n\n
txn <<< bad\n
txn <<< mod("k") = "abc"\n
txn <<< foo("k") = "1"\n
txn <<< \nfoo bar\n
txn <<< mod("k") = "1"
put --ignore-value missing
put --ignore-value foo bar
put --lease=zz foo bar
put --lease=1234 foo bar
put
get
get a b --prefix
get a --prefix --from-key
get a --keys-only --count-only
get a --sort-by=bogus
get a --order=bogus
get a --consistency=x
get foo -w table
get foo -w bogus
get foo --rev=9999
del
bogus
get --bogus
member bogus
member list
member list -w table
member list -w json
member list -w fields
member list --hex -w json
member remove xyz
member add
member add x
endpoint health
endpoint health -w json
endpoint status -w json
endpoint status -w fields
endpoint hashkv
endpoint hashkv -w json
alarm list
alarm disarm
defrag
compaction 5
compaction 5
compaction 99999
compaction x
get foo --rev=3
endpoint hashkv -w json
lease list
lease timetolive 1234
lease timetolive 1234 -w json
lease revoke 1234
lease revoke zz
lease grant abc
lease grant
lease keep-alive --once 1234
snapshot save
snapshot status
move-leader
downgrade validate
lock name echo locked
lock name false
elect
elect name
auth
user add
role grant-permission r
version
member remove 1234
member promote 1234
move-leader 1234
`

// usersScript needs a store that has users.
const usersScript = `
auth status
role add r
role list
role get r
role grant-permission r read /foo /goo
role get r
role revoke-permission r /foo /goo
user add u:secret
user grant-role u r
user get u
user list
user revoke-role u r
user delete u
role delete r
role delete r
user get nobody
auth enable
downgrade validate 3.6
`

// Commands that exist in one program only by design.
var ownExtras = map[string]bool{"snapshot status": true}

func TestEtcdctl(t *testing.T) {
	t.Parallel()
	type combination struct {
		flavor harness.Flavor
		ctl    program
	}
	combinations := []combination{{harness.Etcd, realTool(t, "etcdctl")}}
	if harness.KeepdBin() != "" {
		combinations = append(combinations,
			combination{harness.Keepd, realTool(t, "etcdctl")},
			combination{harness.KeepdSealed, realTool(t, "etcdctl")},
			combination{harness.Etcd, ownTool("etcdctl")},
			combination{harness.Keepd, ownTool("etcdctl")})
	}
	script := steps(t, ctlScript+usersScript)
	needsUsers := len(steps(t, ctlScript))
	var reference []harness.Output
	for _, c := range combinations {
		t.Run(string(c.flavor)+" with "+c.ctl.name, func(t *testing.T) {
			s := harness.Start(t, harness.Options{Flavor: c.flavor})
			header := newAPI(t, s).status().Header
			for i, step := range script {
				if i >= needsUsers && !c.flavor.Has(harness.Users) {
					break
				}
				line := strings.Join(step.args, " ")
				out := c.ctl.run(t, step.stdin, append(s.CtlArgs(), step.args...)...)
				out.Stdout = mask(s, header.MemberId, header.ClusterId, out.Stdout)
				out.Stderr = mask(s, header.MemberId, header.ClusterId, lastError(out.Stderr))
				if len(reference) == i {
					reference = append(reference, out)
				}
				if ownExtras[line] && c.ctl.name == "keepd etcdctl" {
					continue
				}
				if out != reference[i] {
					t.Errorf("etcdctl %s\n got %s\nwant %s", line, shown(out), shown(reference[i]))
				}
			}
		})
	}
	// The script itself must do something: most steps succeed, and some fail as they should.
	codes := map[int]int{}
	for _, out := range reference {
		codes[out.Code]++
	}
	if codes[0] < 50 || codes[128] < 8 || codes[1] < 8 {
		t.Errorf("exit codes of real etcdctl: %v", codes)
	}
}

// The binary is what its name says, as packages and scripts link it.
func TestNamesOfTheBinary(t *testing.T) {
	t.Parallel()
	for _, flavor := range harness.Flavors() {
		t.Run(string(flavor), func(t *testing.T) {
			dir := t.TempDir()
			for name, args := range map[string][]string{
				"etcd": {"--version"}, "etcdctl": {"version"}, "etcdutl": {"version"},
			} {
				path := harness.EtcdTool(t, name)
				if flavor.IsKeepd() {
					path = filepath.Join(dir, name)
					if err := os.Symlink(harness.KeepdBin(), path); err != nil {
						t.Fatal(err)
					}
				}
				first, _, _ := strings.Cut(harness.MustRun(t, nil, path, args...), "\n")
				want := map[string]string{"etcd": "etcd Version: 3.7.1", "etcdctl": "etcdctl version: 3.7.1",
					"etcdutl": "etcdutl version: 3.7.1"}[name]
				equal(t, name, first, want)
			}
		})
	}
}

// onEachCtl runs a test for each store with real etcdctl, and with keepd's own where there is one.
func onEachCtl(t *testing.T, test func(t *testing.T, s *harness.Store, ctl program)) {
	harness.OnEach(t, func(t *testing.T, s *harness.Store) {
		t.Run("real", func(t *testing.T) { test(t, s, realTool(t, "etcdctl")) })
		if harness.KeepdBin() != "" {
			t.Run("own", func(t *testing.T) { test(t, s, ownTool("etcdctl")) })
		}
	})
}

func TestEtcdctlLeases(t *testing.T) {
	onEachCtl(t, func(t *testing.T, s *harness.Store, ctl program) {
		run := func(args ...string) string {
			t.Helper()
			return strings.TrimSpace(ctl.must(t, append(s.CtlArgs(), args...)...))
		}
		granted := regexp.MustCompile(`^lease ([0-9a-f]+) granted with TTL\(100s\)$`)
		match := granted.FindStringSubmatch(run("lease", "grant", "100"))
		if match == nil {
			t.Fatal("lease grant has another form")
		}
		id := match[1]
		run("put", "leased", "v", "--lease="+id)
		live := run("lease", "timetolive", id, "--keys")
		form := `^lease ` + id + ` granted with TTL\(100s\), remaining\(9[0-9]s\), attached keys\(\[leased\]\)$`
		if !regexp.MustCompile(form).MatchString(live) {
			t.Errorf("lease timetolive: %q", live)
		}
		equal(t, "list", strings.Contains(run("lease", "list"), id), true)
		equal(t, "keep-alive", run("lease", "keep-alive", "--once", id), "lease "+id+" keepalived with TTL(100)")
		var answer map[string]any
		if err := json.Unmarshal([]byte(run("lease", "timetolive", id, "-w", "json")), &answer); err != nil {
			t.Fatal(err)
		}
		equal(t, "granted ttl", answer["granted-ttl"].(float64), 100)
		equal(t, "revoke", run("lease", "revoke", id), "lease "+id+" revoked")
		equal(t, "the key went with it", run("get", "leased"), "")
	})
}

func TestEtcdctlWatch(t *testing.T) {
	onEachCtl(t, func(t *testing.T, s *harness.Store, ctl program) {
		key := "watched-" + strings.ReplaceAll(t.Name(), "/", "-")
		s.MustCtl("put", key, "1")
		log := filepath.Join(t.TempDir(), "watch.log")
		args := append(append([]string{}, ctl.args...), s.CtlArgs()...)
		args = append(args, "watch", key, "--rev=1", "--prev-kv")
		watch := harness.StartProcess(t, log, nil, ctl.path, args...)
		s.MustCtl("put", key, "2")
		s.MustCtl("del", key)
		want := fmt.Sprintf("PUT\n%[1]s\n1\nPUT\n%[1]s\n1\n%[1]s\n2\nDELETE\n%[1]s\n2\n%[1]s\n\n", key)
		harness.Eventually(t, 10*time.Second, "all events are printed", func() bool {
			content, _ := os.ReadFile(log)
			return string(content) == want || watch.Exited()
		})
		equal(t, "still watching", watch.Exited(), false)
	})
}

func TestEtcdctlMirrorsIntoKeepdAndBack(t *testing.T) {
	if harness.KeepdBin() == "" {
		return
	}
	t.Parallel()
	mirror := func(from, to *harness.Store, program string, args ...string) {
		args = append(args, from.CtlArgs()...)
		args = append(args, "make-mirror", to.Endpoint, "--prefix=m")
		log := filepath.Join(t.TempDir(), "mirror.log")
		process := harness.StartProcess(t, log, nil, program, args...)
		from.MustCtl("put", "m2", "live")
		harness.Eventually(t, 15*time.Second, "the mirror is complete", func() bool {
			return to.MustCtl("get", "m", "--prefix") == from.MustCtl("get", "m", "--prefix")
		})
		process.Kill()
	}
	etcd := harness.Start(t, harness.Options{Flavor: harness.Etcd})
	keepd := harness.Start(t, harness.Options{Flavor: harness.Keepd})
	etcd.MustCtl("put", "m1", "before")
	mirror(etcd, keepd, harness.EtcdTool(t, "etcdctl"))
	other := harness.Start(t, harness.Options{Flavor: harness.Etcd})
	own := ownTool("etcdctl")
	if harness.Keepd.Has(harness.Mirror) {
		mirror(keepd, other, own.path, own.args...)
	} else {
		mirror(keepd, other, harness.EtcdTool(t, "etcdctl"))
	}
}

func shown(out harness.Output) string {
	return fmt.Sprintf("exit %d, stdout %q, error %q", out.Code, out.Stdout, out.Stderr)
}
