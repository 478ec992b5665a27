package harness

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Ports are taken from below the range from which the system numbers outgoing connections, which
// otherwise take a port between its choice and its use. etcd's own suite uses those from 20000.
const firstPort, ports = 21_000, 11_000

var nextPort atomic.Uint32

func init() {
	nextPort.Store(uint32(os.Getpid() * 97 % ports))
}

// FreePort is a TCP port of 127.0.0.1 that nobody uses now and that is given out once.
func FreePort(t testing.TB) int {
	t.Helper()
	for range ports {
		port := firstPort + int(nextPort.Add(1)%ports)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			listener.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// Output is what a program that ran to its end left behind.
type Output struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a program to its end. A program that cannot be started or that hangs fails the test.
func Run(t testing.TB, env []string, stdin, program string, args ...string) Output {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Dir = t.TempDir()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	timer := time.AfterFunc(90*time.Second, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("%s %s: still running after 90 s\n%s%s", program, args, &stdout, &stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v", program, args, err)
	}
	return Output{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// MustRun is Run for a program that has to succeed; it returns the standard output.
func MustRun(t testing.TB, env []string, program string, args ...string) string {
	t.Helper()
	out := Run(t, env, "", program, args...)
	if out.Code != 0 {
		t.Fatalf("%s %s: exit %d\n%s%s", filepath.Base(program), strings.Join(args, " "), out.Code,
			out.Stdout, out.Stderr)
	}
	return out.Stdout
}

// Process is a program that runs in the background and logs into a file.
type Process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// StartProcess starts a program; it is killed when the test ends, and the end of its log is shown
// if the test failed.
func StartProcess(t testing.TB, log string, env []string, program string, args ...string) *Process {
	t.Helper()
	return StartProcessIn(t, filepath.Dir(log), log, env, program, args...)
}

// StartProcessIn is StartProcess with a working folder.
func StartProcessIn(t testing.TB, dir, log string, env []string, program string, args ...string) *Process {
	t.Helper()
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = file, file
	// A test binary that dies takes what it started with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	p := &Process{cmd: cmd, log: log, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("end of %s:\n%s", log, p.Tail(4000))
		}
	})
	return p
}

// Exited tells whether the program has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Kill ends it as kill -9 does.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Signal sends it a signal.
func (p *Process) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// EndedBy is the signal that ended it, after Wait; 0 if none did.
func (p *Process) EndedBy() syscall.Signal {
	if status := p.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return status.Signal()
	}
	return 0
}

// Terminate asks it to end and waits; it returns the exit code.
func (p *Process) Terminate(t testing.TB) int {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		t.Errorf("%s did not end within 30 s of SIGTERM", p.cmd.Path)
		p.Kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// Wait waits for its own end and returns the exit code.
func (p *Process) Wait(t testing.TB, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(limit):
		t.Fatalf("%s still runs after %s\n%s", p.cmd.Path, limit, p.Tail(4000))
	}
	return p.cmd.ProcessState.ExitCode()
}

// Tail is the end of the log.
func (p *Process) Tail(limit int) string {
	content, _ := os.ReadFile(p.log)
	if len(content) > limit {
		content = content[len(content)-limit:]
	}
	return string(content)
}

// Eventually waits until the condition holds.
func Eventually(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Memory is what the program has in memory, now and at most until now, in MiB.
func (p *Process) Memory(t testing.TB) (now, peak int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &now)
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &peak)
	}
	return now / 1024, peak / 1024
}
