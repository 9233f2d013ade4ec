package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/turn"
)

// network is all machines' network. Fault model: a dial is refused where nobody
// listens, or hangs; a connection is cut at any read, with the bytes that are
// under way lost, or some of them; a read gives as few bytes as it likes; a
// machine that dies resets its connections. Bytes are never altered or
// reordered, and a connection holds any number of them: a write does not wait.
type network struct {
	bus    *Bus
	faults *faults

	mu        sync.Mutex
	listeners map[string]*listener
	dials     map[string]int // number of connections by name without number
	ports     map[string]uint16
}

func newNetwork(b *Bus, f *faults) *network {
	return &network{bus: b, faults: f, listeners: map[string]*listener{}, dials: map[string]int{}, ports: map[string]uint16{}}
}

// host is the network as one machine sees it, from one start to its end.
type host struct {
	net     *network
	name    string // differs from start to start
	machine string // does not

	mu    sync.Mutex
	dead  bool
	links map[*link]bool
	ears  map[*listener]bool
}

func (n *network) host(machine, name string) *host {
	return &host{net: n, name: name, machine: machine, links: map[*link]bool{}, ears: map[*listener]bool{}}
}

// kill ends the machine's part in the network.
func (h *host) kill() {
	h.mu.Lock()
	h.dead = true
	links, ears := h.links, h.ears
	h.links, h.ears = nil, nil
	h.mu.Unlock()
	for l := range links {
		l.reset()
	}
	for e := range ears {
		e.Close()
	}
}

func (h *host) isDead() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dead
}

// keep notes something that ends with the machine. It reports whether the
// machine lives.
func (h *host) keep(l *link, e *listener) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.dead:
		return false
	case l != nil:
		h.links[l] = true
	default:
		h.ears[e] = true
	}
	return true
}

func (h *host) forget(l *link, e *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.links, l)
	delete(h.ears, e)
}

func addrOf(host string, port uint16) *net.TCPAddr {
	f := fnv.New32a()
	f.Write([]byte(host))
	s := f.Sum32()
	ip := netip.AddrFrom4([4]byte{10, byte(s >> 16), byte(s >> 8), byte(s)})
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, port))
}

// Dial is a smtpc.Dialer.
func (h *host) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	label := h.label(ctx) + " dial " + addr
	r, err := h.net.bus.ParkCtx(ctx, label)
	if h.isDead() {
		return fail(errDead)
	}
	if err != nil {
		return fail(err)
	}
	if h.net.faults.strikes(r, h.net.faults.dialHang) {
		h.net.bus.Note(label + ": hangs")
		ctx, cancel := context.WithTimeoutCause(ctx, maxHang, syscall.ETIMEDOUT)
		defer cancel()
		<-ctx.Done()
		h.net.bus.Park(label + " given up")
		return fail(context.Cause(ctx))
	}
	l := h.net.listener(addr)
	if l == nil || l.host.isDead() {
		return fail(syscall.ECONNREFUSED)
	}
	k := h.net.connect(h, l, addr)
	if k == nil || !h.keep(k, nil) {
		return fail(syscall.ECONNREFUSED)
	}
	return k.ends[0], nil
}

// label names a goroutine of the machine: a node's goroutines are named in full.
func (h *host) label(ctx context.Context) string {
	if who := turn.Who(ctx); who != "" {
		return who
	}
	return h.name
}

func (n *network) listener(addr string) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[addr]
}

// connect makes a connection and puts it before the listener.
func (n *network) connect(h *host, l *listener, addr string) *link {
	n.mu.Lock()
	name := h.name + ">" + addr
	n.dials[name]++
	n.ports[h.name]++
	number, port := n.dials[name], n.ports[h.name]
	n.mu.Unlock()
	k := &link{net: n, hosts: [2]*host{h, l.host}, changed: make(chan struct{})}
	full := fmt.Sprintf("%s#%d", name, number)
	near, far := addrOf(h.machine, 10000+port), addrOf(l.host.machine, l.port)
	k.ends[0] = &conn{link: k, side: 0, name: full + " client", local: near, remote: far}
	k.ends[1] = &conn{link: k, side: 1, name: full + " server", local: far, remote: near}
	if !l.host.keep(k, nil) || !l.offer(k.ends[1]) {
		return nil
	}
	return k
}

// Listen is a node's Seams.Listen.
func (h *host) Listen(ctx context.Context, _, addr string) (net.Listener, error) {
	h.net.bus.Park(h.label(ctx) + " listen " + addr)
	_, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return nil, err
	}
	l := &listener{host: h, addr: addr, port: uint16(port), changed: make(chan struct{})}
	h.net.mu.Lock()
	if old := h.net.listeners[addr]; old != nil && !old.host.isDead() {
		h.net.mu.Unlock()
		return nil, syscall.EADDRINUSE
	}
	h.net.listeners[addr] = l
	h.net.mu.Unlock()
	if !h.keep(nil, l) {
		l.Close()
		return nil, errDead
	}
	return l, nil
}

type listener struct {
	host *host
	addr string
	port uint16

	mu      sync.Mutex
	queue   []*conn
	closed  bool
	changed chan struct{}
}

func (l *listener) wakeLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *listener) offer(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.queue = append(l.queue, c)
	l.wakeLocked()
	return true
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		ready, changed := l.closed || len(l.queue) > 0, l.changed
		l.mu.Unlock()
		if !ready {
			<-changed
			continue
		}
		l.host.net.bus.Park(l.host.name + " accept " + l.addr)
		l.mu.Lock()
		if l.closed {
			l.mu.Unlock()
			return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
		}
		if len(l.queue) == 0 {
			l.mu.Unlock()
			continue
		}
		c := l.queue[0]
		l.queue = l.queue[1:]
		l.mu.Unlock()
		return c, nil
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.closed = true
	queue := l.queue
	l.queue = nil
	l.wakeLocked()
	l.mu.Unlock()
	for _, c := range queue {
		c.link.reset()
	}
	n := l.host.net
	n.mu.Lock()
	if n.listeners[l.addr] == l {
		delete(n.listeners, l.addr)
	}
	n.mu.Unlock()
	l.host.forget(nil, l)
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return addrOf(l.host.machine, l.port) }

// link is one connection with its two ends.
type link struct {
	net   *network
	hosts [2]*host
	ends  [2]*conn

	mu      sync.Mutex
	in      [2][]byte // what has arrived at each end
	over    [2]bool   // nothing more will arrive there
	closed  [2]bool   // the end was closed by its owner
	broken  bool      // reset
	severed bool      // reset, once what is under way was read
	read    [2]time.Time
	write   [2]time.Time
	changed chan struct{}
}

func (k *link) wakeLocked() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// reset breaks the connection: what is under way is lost.
func (k *link) reset() {
	k.mu.Lock()
	k.broken = true
	k.in = [2][]byte{}
	k.wakeLocked()
	k.mu.Unlock()
	k.hosts[0].forget(k, nil)
	k.hosts[1].forget(k, nil)
}

// conn is one end of a connection.
type conn struct {
	link          *link
	side          int
	name          string
	local, remote net.Addr
}

func (c *conn) error(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// wait blocks until there is something to read, or the connection is over for
// this end, or the deadline for reading has passed.
func (c *conn) wait() {
	k := c.link
	for {
		k.mu.Lock()
		at := k.read[c.side]
		done := len(k.in[c.side]) > 0 || k.over[c.side] || k.broken || k.closed[c.side] || !at.IsZero() && !time.Now().Before(at)
		changed := k.changed
		k.mu.Unlock()
		if done {
			return
		}
		var expired <-chan time.Time
		var timer *time.Timer
		if !at.IsZero() {
			timer = time.NewTimer(time.Until(at))
			expired = timer.C
		}
		select {
		case <-changed:
		case <-expired:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	k := c.link
	c.wait()
	r := k.net.bus.Park(c.name + " read")
	if k.net.faults.strikes(r, k.net.faults.cut) {
		k.net.bus.Note(c.name + " cut")
		k.cut(c.side, r)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	in := &k.in[c.side]
	switch {
	case k.closed[c.side]:
		return 0, c.error("read", net.ErrClosed)
	case k.broken:
		return 0, c.error("read", syscall.ECONNRESET)
	case len(*in) > 0:
		n := min(len(p), len(*in))
		if n > 1 && r.IntN(8) == 0 {
			n = 1 + r.IntN(n-1)
		}
		copy(p, (*in)[:n])
		*in = (*in)[n:]
		k.wakeLocked()
		return n, nil
	case k.severed:
		return 0, c.error("read", syscall.ECONNRESET)
	case k.over[c.side]:
		return 0, io.EOF
	}
	return 0, c.error("read", os.ErrDeadlineExceeded)
}

// Write implements net.Conn. It does not park: what is written is under way, and
// the reader's turn decides when it arrives. (The IMAP library holds a mutex over
// it, which must not be held while somebody waits for a turn.)
func (c *conn) Write(p []byte) (int, error) {
	k := c.link
	k.mu.Lock()
	defer k.mu.Unlock()
	switch at := k.write[c.side]; {
	case k.closed[c.side]:
		return 0, c.error("write", net.ErrClosed)
	case k.broken, k.severed:
		return 0, c.error("write", syscall.ECONNRESET)
	case k.closed[1-c.side]:
		return 0, c.error("write", syscall.EPIPE)
	case !at.IsZero() && !time.Now().Before(at):
		return 0, c.error("write", os.ErrDeadlineExceeded)
	}
	k.in[1-c.side] = append(k.in[1-c.side], p...)
	k.wakeLocked()
	return len(p), nil
}

// cut breaks the connection under a read: of what is under way to the reader
// some may still arrive.
func (k *link) cut(side int, r *rand.Rand) {
	k.mu.Lock()
	if n := len(k.in[side]); n > 0 && r.IntN(2) == 0 {
		k.in[side] = k.in[side][:r.IntN(n+1)]
		k.in[1-side] = nil
		k.over, k.severed = [2]bool{true, true}, true
		k.wakeLocked()
		k.mu.Unlock()
		return
	}
	k.mu.Unlock()
	k.reset()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	k := c.link
	k.mu.Lock()
	if k.closed[c.side] {
		k.mu.Unlock()
		return c.error("close", net.ErrClosed)
	}
	k.closed[c.side] = true
	k.over[1-c.side] = true
	if len(k.in[c.side]) > 0 {
		k.broken = true // RFC 9293 §3.10.4: unread data makes it a reset
		k.in = [2][]byte{}
	}
	k.wakeLocked()
	k.mu.Unlock()
	k.hosts[c.side].forget(k, nil)
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return c.set(t, &c.link.read, &c.link.write)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.set(t, &c.link.read) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.set(t, &c.link.write) }

func (c *conn) set(t time.Time, deadlines ...*[2]time.Time) error {
	k := c.link
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed[c.side] {
		return c.error("set", net.ErrClosed)
	}
	for _, d := range deadlines {
		d[c.side] = t
	}
	k.wakeLocked()
	return nil
}
