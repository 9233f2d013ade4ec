package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

// world is a bucket, a directory and the servers of some domains. Its fault
// model: a node may stop, or vanish: its connections break, its requests no
// longer reach the store, and what it held in memory is gone. What the bucket
// does wrong is up to package fault, what the servers do to package smtptest.
type world struct {
	t      *testing.T
	bucket objstore.Bucket
	keys   *crypto.Root
	tenant event.Tenant
	logger *slog.Logger
	days   event.Day     // that mail is kept
	poll   time.Duration // for the segments of other nodes
	fold   fold

	mu       sync.Mutex
	sites    []Site
	servers  map[string]*smtptest.Server // by host
	accepted []letter
}

// letter is a message that was accepted in a test.
type letter struct {
	id    event.ID
	ref   event.Ref
	from  string
	rcpts []string
	body  []byte
	trace []byte
}

const domain = "example.org"

// newWorld has one domain, whose primary is called mx and whose smart host out.
func newWorld(t *testing.T) *world {
	w := &world{
		t: t, days: 30, fold: newFold(), bucket: mem.New(), keys: crypto.MemoryRoot(event.DayOf(time.Now())),
		servers: map[string]*smtptest.Server{}, logger: slog.New(slog.DiscardHandler),
	}
	if os.Getenv("DELIVERY_LOG") != "" {
		w.logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	tenant, err := w.keys.TenantID(context.Background(), "acme")
	w.check(err)
	w.tenant = tenant
	w.server("mx")
	w.server("out")
	w.sites = []Site{{
		Domain: domain, Tenant: tenant, Primary: []string{"smtp://mx:25?tls=none"}, Outbound: "smtp://out:25?tls=none", ShadowDays: 30,
	}}
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// server makes a server that answers Dial under a host name.
func (w *world) server(host string) *smtptest.Server {
	s := smtptest.New(smtptest.Options{Hostname: host + ".test"})
	w.servers[host] = s
	w.t.Cleanup(s.Stop)
	return s
}

func (w *world) mx() *smtptest.Server { return w.servers["mx"] }

// Sites implements Directory.
func (w *world) Sites() []Site {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Site(nil), w.sites...)
}

// Home implements Directory: users of the domain are at its primary, all others
// behind its smart host.
func (w *world) Home(path string, _ event.Tenant, via string) (event.Recipient, []event.Allotment) {
	if strings.HasSuffix(path, "@"+domain) {
		return event.Recipient{Path: path, Domain: domain}, nil
	}
	_, d, _ := strings.Cut(path, "@")
	return event.Recipient{Path: path, Domain: d, Outside: true, Via: via}, nil
}

func (w *world) configure(n *node, change func(*Site)) {
	w.mu.Lock()
	change(&w.sites[0])
	w.mu.Unlock()
	n.svc.Reload()
}

// node is one process.
type node struct {
	w      *world
	bucket *fault.Bucket
	log    *eventlog.Log
	runner *projection.Runner
	store  projection.Store
	svc    *Service

	stopRun, stopFold context.CancelFunc
	running, folding  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	dead  bool
	wrap  func(net.Conn) net.Conn
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
}

// open starts a process up to the point where it may accept, but does not
// deliver yet.
func (w *world) open() *node {
	w.t.Helper()
	n := &node{w: w, bucket: fault.Wrap(w.bucket), conns: map[net.Conn]bool{}}
	ctx := context.Background()
	var err error
	n.log, err = eventlog.Open(ctx, eventlog.Options{
		Bucket: n.bucket, URL: "mem:", Keys: w.keys, MayCreate: true, Partitions: 1, Logger: w.logger, Poll: w.poll,
	})
	w.check(err)
	w.check(n.log.EnsureTenant(ctx, w.tenant))
	n.store = projection.NewMemStore()
	n.runner, err = projection.Open(projection.Options{Store: n.store, Source: n.log, Logger: w.logger})
	w.check(err)
	n.svc, err = newService(Config{
		Log: n.log, Runner: n.runner, Directory: w, Hostname: "holdfast.test", Dial: n.connect, Logger: w.logger,
	}, w.fold)
	w.check(err)
	foldCtx, stop := context.WithCancel(ctx)
	n.stopFold = stop
	n.folding.Go(func() { n.runner.Run(foldCtx) })
	return n
}

// start starts a process that delivers.
func (w *world) start() *node {
	w.t.Helper()
	n := w.open()
	n.deliver()
	return n
}

func (n *node) deliver() {
	ctx, stop := context.WithCancel(context.Background())
	n.stopRun = stop
	n.running.Go(func() {
		if err := n.svc.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			n.w.t.Errorf("run: %v", err)
		}
	})
}

// stop ends a process as SIGTERM does. It may be called again.
func (n *node) stop() {
	if n.stopRun != nil {
		n.stopRun()
	}
	n.running.Wait()
	n.stopFold()
	n.folding.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n.log.Close(ctx)
	n.bucket.Close()
}

// vanish ends a process as a power failure does.
func (n *node) vanish() {
	n.bucket.Inject(fault.Rule{Kind: fault.FailBefore, Times: -1})
	n.mu.Lock()
	n.dead = true
	for c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.stop()
}

// connect is the node's network.
func (n *node) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return nil, errors.New("no network")
	}
	if n.dial != nil {
		return n.dial(ctx, network, addr)
	}
	host, _, _ := net.SplitHostPort(addr)
	n.w.mu.Lock()
	s := n.w.servers[host]
	n.w.mu.Unlock()
	c, err := s.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if n.wrap != nil {
		c = n.wrap(c)
	}
	n.conns[c] = true
	return c, nil
}

// offer accepts a message, as the intake does. It returns an error when the
// sender was told 451.
func (n *node) offer(from string, text string, rcpts ...string) (letter, error) {
	var rs []event.Recipient
	for _, r := range rcpts {
		rcpt, _ := n.w.Home(r, n.w.tenant, domain)
		rs = append(rs, rcpt)
	}
	return n.offerRcpts(from, text, rs)
}

func (n *node) offerRcpts(from string, text string, rs []event.Recipient) (letter, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	now := n.log.Now()
	l := letter{id: event.NewID(), from: from, body: []byte(text)}
	for _, r := range rs {
		l.rcpts = append(l.rcpts, r.Path)
	}
	l.trace = fmt.Appendf(nil, "Received: from client by holdfast.test id %s;\r\n\t%s\r\n", l.id, message.FormatDate(now.UTC()))
	expiry := event.DayOf(now) + n.w.days
	m, err := n.log.NewMail(ctx, l.id, n.w.tenant, expiry, l.trace)
	if err != nil {
		return l, err
	}
	defer m.Discard()
	if _, err := io.Copy(m, bytes.NewReader(l.body)); err != nil {
		return l, err
	}
	mail, err := m.Finish()
	if err != nil {
		return l, err
	}
	pos, err := n.log.Append(ctx, event.Event{ID: l.id, Tenant: n.w.tenant, Expiry: expiry, Body: mail.Body, Fact: &event.MessageAccepted{
		Origin: event.OriginInbound, At: event.Millis(now.UnixMilli()), Size: mail.Size, Shown: mail.Shown, Recipients: uint32(len(rs)), Routes: event.RoutesOf(rs),
		Meta: &event.MessageMeta{From: from, Recipients: rs, Trace: l.trace, SHA256: mail.SHA256, Index: mail.Raw},
	}})
	if err != nil {
		return l, err
	}
	l.ref = event.Ref{Position: pos, ID: l.id}
	n.w.mu.Lock()
	n.w.accepted = append(n.w.accepted, l)
	n.w.mu.Unlock()
	return l, nil
}

func (n *node) accept(from string, text string, rcpts ...string) letter {
	n.w.t.Helper()
	l, err := n.offer(from, text, rcpts...)
	n.w.check(err)
	return l
}

// mailTo accepts count messages to a user, numbered in their subjects.
func (n *node) mailTo(user string, count int) {
	n.w.t.Helper()
	for i := range count {
		n.accept("sender@far.test", text(fmt.Sprintf("%s %d", user, i)), user+"@"+domain)
	}
}

func text(subject string) string {
	return "From: sender@far.test\r\nSubject: " + subject + "\r\n\r\n.dot\r\nbody of " + subject + "\r\n"
}

func (n *node) status() DomainStatus {
	n.w.t.Helper()
	st, err := n.svc.Domain(context.Background(), n.w.tenant, domain)
	n.w.check(err)
	return st
}

// await waits until the condition holds, and returns how long that took; it
// fails after most.
func (w *world) await(what string, most time.Duration, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for {
		synctest.Wait()
		if ok() {
			return time.Since(began)
		}
		if time.Since(began) > most {
			w.t.Fatalf("not within %v: %s", most, what)
		}
		time.Sleep(max(50*time.Millisecond, most/10000))
	}
}

// drained waits until nothing is due to the primary.
func (n *node) drained(most time.Duration) time.Duration {
	n.w.t.Helper()
	return n.w.await("queue empty", most, func() bool { return n.status().Queued == 0 })
}

func (n *node) becomes(h event.Health, most time.Duration) time.Duration {
	n.w.t.Helper()
	return n.w.await("state "+h.String(), most, func() bool { return n.status().State == h })
}

// facts returns all facts of the log, in order.
func (n *node) facts() (out []eventlog.Recorded) {
	n.w.t.Helper()
	ctx := context.Background()
	n.w.check(n.log.Refresh(ctx, 0))
	for r, err := range n.log.Read(ctx, 0, eventlog.Cursor{}) {
		n.w.check(err)
		out = append(out, r)
	}
	return out
}

// outcomes returns what was recorded of a unit, in order.
func (n *node) outcomes(u event.Unit) (out []event.Outcome) {
	n.w.t.Helper()
	for _, r := range n.facts() {
		if f, ok := r.Fact.(*event.DeliverySettled); ok {
			for _, o := range f.Outcomes {
				if o.Unit == u {
					out = append(out, o)
				}
			}
		}
	}
	return out
}

// last returns the last outcome of recipient i of a message; the zero Outcome
// if there is none.
func (n *node) last(l letter, i int) event.Outcome {
	n.w.t.Helper()
	all := n.outcomes(event.Unit{Source: l.id, N: uint32(i)})
	if len(all) == 0 {
		return event.Outcome{}
	}
	return all[len(all)-1]
}

// subjects returns the subjects that a server got for a recipient, in order.
func subjects(s *smtptest.Server, to string) (out []string) {
	for _, tx := range s.Transactions() {
		for _, r := range tx.Recipients {
			if r.To == to {
				out = append(out, subjectOf(tx.Body))
			}
		}
	}
	return out
}

func subjectOf(body []byte) string {
	_, rest, _ := strings.Cut(string(body), "Subject: ")
	line, _, _ := strings.Cut(rest, "\r\n")
	return line
}

// inOrder fails unless to got count messages of mailTo, each once, in order.
func inOrder(t *testing.T, s *smtptest.Server, user string, count int) {
	t.Helper()
	got := subjects(s, user+"@"+domain)
	if len(got) != count {
		t.Errorf("%s got %d messages, want %d", user, len(got), count)
	}
	for i, sub := range got {
		if want := fmt.Sprintf("%s %d", user, i); sub != want {
			t.Fatalf("%s: message %d is %q, want %q", user, i, sub, want)
		}
	}
}

// bubble runs a test on fake time, with a node that delivers.
func bubble(t *testing.T, f func(w *world, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.start()
		defer n.stop()
		f(w, n)
	})
}
