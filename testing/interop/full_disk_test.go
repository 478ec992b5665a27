package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keepd/keepd/testing/interop/harness"
)

const (
	// What is put until a disk is full.
	fillValueBytes = 16 << 10
	// How long after the last step of the way out puts are accepted again, and the space is back.
	givenBackWithin = 30 * time.Second
)

// mountSmall mounts a file system of so many MiB for the test. Without the right to mount, it says
// so and skips.
func mountSmall(t *testing.T, kind string, mib int) string {
	t.Helper()
	dir := t.TempDir()
	size := fmt.Sprintf("%dm", mib)
	arguments := []string{"-t", "tmpfs", "-o", "size=" + size, "tmpfs", dir}
	if kind == "ext4" {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, int64(mib)<<20); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", image).CombinedOutput(); err != nil {
			t.Skipf("NOT TESTED: a full ext4: mkfs.ext4: %v: %s", err, out)
		}
		arguments = []string{"-o", "loop", image, dir}
	}
	if out, err := exec.Command("mount", arguments...).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: a full %s: this user or container may not mount: %v: %s", kind, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Logf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// usedBytes is what is in use of the file system.
func usedBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	return int64(stat.Blocks-stat.Bfree) * stat.Bsize
}

// fillDisk puts values until they are refused; how many were taken.
func fillDisk(t *testing.T, a *api) int64 {
	t.Helper()
	var taken, next atomic.Int64
	var group sync.WaitGroup
	value := make([]byte, fillValueBytes)
	for i := range value {
		value[i] = byte(i * 7)
	}
	for range 16 {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				c, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				key := []byte(fmt.Sprintf("key-%07d", next.Add(1)))
				_, err := a.kv.Put(c, &pb.PutRequest{Key: key, Value: value})
				cancel()
				if err != nil {
					if status.Code(err) != codes.ResourceExhausted {
						t.Errorf("a put on a full disk: %v", err)
					}
					return
				}
				taken.Add(1)
			}
		}()
	}
	group.Wait()
	return taken.Load()
}

// A disk that the member filled by itself is given back, with a restart before each step.
func TestADiskThatWasFilledIsGivenBack(t *testing.T) {
	harness.NeedKeepd(t)
	mib := 60
	if text := os.Getenv("KEEPD_FULL_DISK_MIB"); text != "" {
		var err error
		if mib, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"tmpfs", "ext4"} {
		for _, restart := range []string{"none", "stop", "kill"} {
			t.Run(kind+"/"+restart, func(t *testing.T) {
				giveBack(t, kind, mib, restart)
			})
		}
	}
}

func giveBack(t *testing.T, kind string, mib int, restart string) {
	dir := mountSmall(t, kind, mib)
	a := newAPI(t, harness.Start(t, harness.Options{Flavor: harness.Keepd, DataDir: filepath.Join(dir, "data")}))
	again := func() {
		t.Helper()
		switch restart {
		case "stop":
			a.Terminate(t)
			a.Launch()
			a.WaitReady()
		case "kill":
			a.Restart()
		}
	}
	before := usedBytes(t, dir)
	first := fillDisk(t, a)
	full := usedBytes(t, dir)
	if stored := first * fillValueBytes; stored < int64(mib)<<20/4 {
		t.Fatalf("only %d bytes fit on %d MiB", stored, mib)
	}
	// What an operator sees.
	if out := a.MustCtl("alarm", "list"); !strings.Contains(out, "alarm:NOSPACE") {
		t.Errorf("alarm list: %q", out)
	}
	if out := a.MustCtl("endpoint", "status", "-w", "json"); !strings.Contains(out, "NOSPACE") {
		t.Errorf("endpoint status: %q", out)
	}
	again()
	a.MustCtl("del", "--prefix", "key-")
	again()
	a.MustCtl("compaction", fmt.Sprint(a.status().Header.Revision))
	again()
	began := time.Now()
	a.MustCtl("--command-timeout=60s", "defrag")
	defragmented := time.Since(began)
	var space *pb.StatusResponse
	harness.Eventually(t, givenBackWithin, "puts are accepted again and the space is back", func() bool {
		space = a.status()
		_, err := a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("after"), Value: []byte("1")})
		used := usedBytes(t, dir)
		return err == nil && len(space.Errors) == 0 && space.DbSize < 4<<20 && used < before+(8<<20)
	})
	t.Logf("%s of %d MiB, restart %s: %d values of 16 KiB fit; used %d, full %d, after %d bytes; db size %d, in use %d; "+
		"defrag took %v, puts again after %v", kind, mib, restart, first, before, full, usedBytes(t, dir),
		space.DbSize, space.DbSizeInUse, defragmented.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	again()
	if second := fillDisk(t, a); second*10 < first*8 {
		t.Errorf("%d values fitted, and %d when all was given back", first, second)
	}
}

// The way out of a used-up quota, with the commands of etcd's documentation.
func TestTheWayOutOfAUsedUpQuota(t *testing.T) {
	onEachWith(t, []string{"--quota-backend-bytes=16000000"}, func(t *testing.T, a *api) {
		fill := func() {
			t.Helper()
			var err error
			for i := 0; i < 64 && err == nil; i++ {
				// One key again and again: only a compaction gives it back.
				_, err = a.kv.Put(ctx(t), &pb.PutRequest{Key: []byte("key"), Value: make([]byte, 1<<20)})
			}
			wantError(t, err, codes.ResourceExhausted, errNoSpace)
			equal(t, "alarm list", strings.Contains(a.MustCtl("alarm", "list"), "alarm:NOSPACE"), true)
		}
		compact := func() {
			t.Helper()
			out := a.MustCtl("endpoint", "status", "--write-out=json")
			_, rest, _ := strings.Cut(out, `"revision":`)
			revision := rest[:strings.IndexAny(rest, ",}")]
			a.MustCtl("compact", revision)
			a.MustCtl("--command-timeout=60s", "defrag")
		}
		fill()
		full := a.status()
		compact()
		after := a.status()
		equal(t, "the files have shrunk", after.DbSize < full.DbSize/2, true)
		a.MustCtl("alarm", "disarm")
		a.MustCtl("put", "newkey", "123")
		equal(t, "no alarm", a.MustCtl("alarm", "list"), "")
		if !a.Flavor.IsKeepd() {
			return
		}
		// Ours also clears by itself.
		fill()
		compact()
		harness.Eventually(t, 10*time.Second, "the alarm clears by itself", func() bool {
			return a.MustCtl("alarm", "list") == ""
		})
		a.MustCtl("put", "newkey", "124")
	})
}
