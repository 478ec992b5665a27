package harness

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Network carries the connections between the members of a cluster, so that a test can cut it. Each member
// advertises a peer URL of the network, and listens behind it.
//
// Cut is what a cable that is pulled does: nothing arrives, and nobody is told. Connections stay, and what
// is under way arrives when the network is mended. The member that dialed is found by its process, since
// all share one address.
type Network struct {
	t       testing.TB
	mu      sync.Mutex
	changed *sync.Cond
	members []*Store
	alone   *Store
	closed  bool
}

// NewNetwork puts a network in front of members that were prepared and have not started.
func NewNetwork(t testing.TB, members ...*Store) *Network {
	t.Helper()
	n := &Network{t: t}
	n.changed = sync.NewCond(&n.mu)
	t.Cleanup(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.closed = true
		n.changed.Broadcast()
	})
	for _, m := range members {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", FreePort(t)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		own := m.PeerURL
		m.ListenPeerURL = own
		m.PeerURL = strings.Replace(own, hostOf(t, own), listener.Addr().String(), 1)
		m.InitialCluster = m.Name + "=" + m.PeerURL
		n.members = append(n.members, m)
		go n.serve(listener, m)
	}
	return n
}

func hostOf(t testing.TB, text string) string {
	t.Helper()
	parsed, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Host
}

// Isolate cuts a member off from all others.
func (n *Network) Isolate(m *Store) { n.set(m) }

// Mend ends the cut.
func (n *Network) Mend() { n.set(nil) }

func (n *Network) set(alone *Store) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.alone = alone
	n.changed.Broadcast()
}

// pass waits until bytes may go between two members; false when the test is over.
func (n *Network) pass(from, to *Store) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for !n.closed && n.alone != nil && (n.alone == from || n.alone == to) {
		n.changed.Wait()
	}
	return !n.closed
}

func (n *Network) serve(listener net.Listener, to *Store) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		go n.carry(near, to)
	}
}

func (n *Network) carry(near net.Conn, to *Store) {
	defer near.Close()
	from := n.dialer(near)
	if !n.pass(from, to) {
		return
	}
	far, err := net.DialTimeout("tcp", hostOf(n.t, to.ListenPeerURL), 5*time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.copy(near, far, to, from)
	}()
	n.copy(far, near, from, to)
	<-done
}

// copy moves bytes while it may. An end in one direction ends both: a peer that closes half of a
// connection has nothing more to say to the other half either.
func (n *Network) copy(into, out net.Conn, from, to *Store) {
	defer into.Close()
	defer out.Close()
	buffer := make([]byte, 32<<10)
	for {
		count, err := out.Read(buffer)
		if !n.pass(from, to) {
			return
		}
		if count > 0 {
			if _, err := into.Write(buffer[:count]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// dialer is the member that a connection comes from; nil if it is none of them.
func (n *Network) dialer(conn net.Conn) *Store {
	port := conn.RemoteAddr().(*net.TCPAddr).Port
	inode := socketOf(port)
	if inode == "" {
		return nil
	}
	want := "socket:[" + inode + "]"
	for _, m := range n.members {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", m.pid.Load()))
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && target == want {
				return m
			}
		}
	}
	return nil
}

// socketOf is the inode of the socket that is bound to a port of 127.0.0.1 and connected.
func socketOf(port int) string {
	file, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer file.Close()
	local := fmt.Sprintf("0100007F:%04X", port)
	const connected = "01"
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadString('\n')
		fields := strings.Fields(line)
		if len(fields) > 9 && fields[1] == local && fields[3] == connected {
			return fields[9]
		}
		if err == io.EOF || err != nil {
			return ""
		}
	}
}
