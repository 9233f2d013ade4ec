package world

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/node"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
	"holdfast/projection"
	"holdfast/sim/check"
	"holdfast/sim/lan"
)

// stage is a world without a seed for its order: the nodes run as they like. Its
// fault model is that of package fault, by chance, and that a node vanishes: its
// connections break, its requests no longer reach the bucket.
type stage struct {
	t        *testing.T
	order    check.Order
	bucket   *check.Recorder
	keys     *crypto.Root
	lan      *lan.Net
	machines []*machine
	kills    []check.Kill
	url      string
	quiet    bool            // findings are expected
	settled  func()          // called when the domains are there and nothing else is; may be nil
	problems []check.Finding // that came to light before the judges were asked
}

type machine struct {
	s     *stage
	name  string
	store projection.Store
	fault *fault.Bucket

	mu     sync.Mutex
	node   *node.Node
	cable  *lan.Cable
	cancel context.CancelFunc
	over   chan struct{}
	ready  chan struct{}
	failed error // why it ended; to be read when over is closed
}

func newStage(t *testing.T, nodes int) *stage {
	s := &stage{t: t, keys: crypto.MemoryRoot(event.DayOf(time.Now())), lan: lan.New(), url: "sim:"}
	s.bucket = check.NewRecorder(mem.New(), &s.order)
	for i := range nodes {
		s.machines = append(s.machines, &machine{s: s, name: fmt.Sprintf("n%d", i+1), store: projection.NewMemStore()})
	}
	return s
}

func (m *machine) config() node.Config {
	return node.Config{
		DataDir: "/nowhere", Hostname: m.name + ".sim", Roles: []string{node.RoleSMTP, node.RoleDeliver, node.RoleIMAP},
		Store: node.StoreConfig{URL: m.s.url, Partitions: 2}, Keys: node.KeysConfig{URL: "file:/nowhere/root.key"},
		SMTP:       node.SMTPConfig{Listen: []string{m.name + ":25"}, MaxMessageSize: 1 << 20},
		Submission: node.ListenConfig{Listen: []string{m.name + ":587"}, AllowPlaintextAuth: true},
		IMAP:       node.ListenConfig{Listen: []string{m.name + ":143"}, AllowPlaintextAuth: true},
	}
}

// start returns when the node is ready.
func (m *machine) start() {
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("SIM_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", m.name)
	}
	m.fault = fault.Wrap(m.s.bucket)
	cable := &lan.Cable{}
	n, err := node.New(context.Background(), m.config(), node.Seams{
		Bucket: m.fault, Keys: m.s.keys, Store: m.store, Dial: m.s.lan.Dialer(cable),
		Listen: func(ctx context.Context, network, addr string) (net.Listener, error) {
			l, err := m.s.lan.Listen(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return cable.Wire(l), nil
		},
	}, logger)
	if err != nil {
		m.s.problem("at rest", "%s does not start: %v", m.name, err)
		m.mu.Lock()
		m.node, m.cable, m.cancel, m.over = nil, cable, func() {}, make(chan struct{})
		close(m.over)
		m.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, over := make(chan struct{}), make(chan struct{})
	m.mu.Lock()
	m.node, m.cable, m.cancel, m.over, m.ready = n, cable, cancel, over, ready
	m.mu.Unlock()
	go func() {
		defer close(over)
		if err := n.Run(ctx, func() { close(ready) }); err != nil {
			m.failed = err
		}
	}()
	select {
	case <-ready:
	case <-over:
		m.s.problem("at rest", "%s does not start: %v", m.name, m.failed)
	case <-time.After(10 * time.Minute):
		m.s.problem("at rest", "%s does not get ready", m.name)
	}
}

func (m *machine) stop() {
	m.cancel()
	<-m.over
	m.fault.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.node = nil
}

// kill ends the node as a power failure does.
func (m *machine) kill() {
	m.fault.Clear()
	m.fault.Inject(fault.Rule{Kind: fault.FailBefore, Times: -1})
	m.cable.Sever()
	m.s.kills = append(m.s.kills, check.Kill{Node: m.name, At: m.s.order.Now()})
	m.stop()
}

func (m *machine) handler() http.Handler {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node == nil {
		return nil
	}
	return m.node.AdminHandler()
}

func (m *machine) status() (s node.Status) {
	h := m.handler()
	if h == nil {
		return s
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/status", nil))
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
		m.s.t.Fatal(err)
	}
	return s
}

func (s *stage) apply(w *World) {
	body, err := json.Marshal(node.ApplyRequest{File: w.File()})
	if err != nil {
		s.t.Fatal(err)
	}
	r := httptest.NewRecorder()
	s.machines[0].handler().ServeHTTP(r, httptest.NewRequest(http.MethodPost, "/apply", bytes.NewReader(body)))
	if r.Code != http.StatusOK {
		s.problem("at rest", "the domains cannot be applied: %s", r.Body)
	}
	time.Sleep(3 * time.Second) // the other nodes look every second
}

func (s *stage) world(seed uint64, size Size) *World {
	var names []string
	for _, m := range s.machines {
		names = append(names, m.name)
	}
	return New(Config{
		Seed: seed, Order: &s.order, Nodes: names, Size: size,
		Net:   func(string) Network { return Network{Dial: s.lan.Dialer(nil), Listen: s.lan.Listen} },
		Admin: func(i int) http.Handler { return s.machines[i].handler() },
	})
}

// empty reports whether no node has anything due.
func (s *stage) empty() bool {
	for _, m := range s.machines {
		for _, d := range m.status().Domains {
			if d.Queued != 0 || d.Outbound != 0 || d.Held != 0 || d.State != "up" {
				return false
			}
		}
	}
	return true
}

// await waits; that it waits in vain is a finding.
func (s *stage) await(what string, most time.Duration, ok func() bool) {
	for end := time.Now().Add(most); !ok(); time.Sleep(time.Second) {
		if time.Now().After(end) {
			s.problem("at rest", "not within %v: %s", most, what)
			return
		}
	}
}

func (s *stage) problem(rule, format string, args ...any) {
	s.problems = append(s.problems, check.Finding{Rule: rule, Text: fmt.Sprintf(format, args...)})
}

// weather is what fails while the world is not calm.
type weather struct {
	rates fault.Rates
	rules []fault.Rule // for every node from the beginning
	kills int
}

// storm is a store that does everything wrong that a store may.
func storm() fault.Rates {
	return fault.Rates{
		fault.FailBefore: 0.02, fault.FailAfter: 0.02, fault.LostAnswer: 0.02, fault.LateLanding: 0.02, fault.Delay: 0.03,
		fault.Hang: 0.005, fault.TornRead: 0.01, fault.StaleList: 0.02,
	}
}

// play lets a world run to its end and judges it.
func (s *stage) play(seed uint64, size Size, bad weather) ([]check.Finding, check.History) {
	ctx, cancel := context.WithCancel(context.Background())
	for _, m := range s.machines {
		m.start()
	}
	w := s.world(seed, size)
	s.apply(w)
	if s.settled != nil {
		s.settled()
	}
	var actors sync.WaitGroup
	for _, a := range w.Actors() {
		actors.Go(func() { a.Run(ctx) })
	}
	for i, m := range s.machines {
		for _, r := range bad.rules {
			m.fault.Inject(r)
		}
		m.fault.Chance(seed+uint64(i), bad.rates, 40*time.Second)
	}
	for i := range bad.kills {
		time.Sleep(50 * time.Second)
		m := s.machines[i%len(s.machines)]
		m.kill()
		time.Sleep(10 * time.Second)
		m.start()
		m.fault.Chance(seed+uint64(i)+100, bad.rates, 40*time.Second)
	}
	time.Sleep(3 * time.Minute)
	for _, m := range s.machines {
		m.fault.Clear()
	}
	w.Calm()
	s.await("the inhabitants finish", time.Hour, w.Done)
	if !w.Done() {
		s.problem("at rest", "still busy: %v", w.Busy())
	}
	s.await("the queues are empty", time.Hour, s.empty)
	for _, a := range w.Probes() {
		a.Run(ctx)
	}
	s.await("the queues are empty again", time.Minute, s.empty)
	time.Sleep(5 * time.Second)
	h := w.History()
	h.Kills = s.kills
	found := s.judge(h)
	cancel()
	actors.Wait()
	for _, m := range s.machines {
		m.stop()
	}
	return found, h
}

func (s *stage) judge(h check.History) []check.Finding {
	ctx := context.Background()
	e := check.Evidence{
		Bucket: s.bucket, Recorder: s.bucket, Keys: s.keys, URL: s.url, Stores: map[string]projection.Store{}, History: h,
		LeastDays: LeastDays, MostDays: MostDays, Bounds: check.DefaultBounds(),
	}
	// One node begins with the log alone, and one with the Bases of a node that
	// has lived through it all.
	machines := append([]*machine(nil), s.machines...)
	for _, name := range []string{"rebuilt", "based"} {
		fresh := &machine{s: s, name: name, store: projection.NewMemStore()}
		fresh.start()
		defer fresh.stop()
		machines = append(machines, fresh)
		taker := machines[0] // and then the one that began with what it took
		if name == "based" {
			taker = fresh
		}
		if taker.node == nil {
			continue // which is a problem already
		}
		if err := taker.node.TakeBases(ctx); err != nil {
			s.problem("bases", "%s takes none: %v", taker.name, err)
		}
	}
	time.Sleep(5 * time.Second)
	for _, m := range machines {
		e.Nodes = append(e.Nodes, m.state(ctx))
		e.Stores[m.name] = m.store
	}
	found, err := check.Judge(ctx, e)
	found = append(s.problems, found...)
	if err != nil {
		return append(found, check.Finding{Rule: "sound", Text: err.Error()})
	}
	for _, f := range found {
		if s.quiet {
			break
		}
		if letter := token.FindString(f.Text); letter != "" {
			l, err := check.ReadLog(ctx, s.bucket, s.keys, s.url, s.bucket)
			if err != nil {
				s.t.Fatal(err)
			}
			s.t.Log(check.Trail(l, &h, letter))
		}
	}
	return found
}

func (m *machine) state(ctx context.Context) check.NodeState {
	if m.node == nil {
		return check.NodeState{Name: m.name}
	}
	folds, err := m.node.Folds(ctx)
	if err != nil {
		m.s.problem("folds", "%s: %v", m.name, err)
	}
	return check.NodeState{Name: m.name, Folds: folds, Status: m.status()}
}

// TestWorld lets some worlds run in disorder, and finds nothing.
func TestWorld(t *testing.T) {
	for seed := range uint64(seeds(4)) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, 2)
				found, h := s.play(seed, Small(), weather{rates: storm(), kills: int(seed % 3)})
				t.Log(check.Report(found, &h))
				if len(found) > 0 {
					t.Fail()
				}
			})
		})
	}
}

// seeds is how many to try: WORLD_SEEDS, or n.
func seeds(n int) int {
	if s, err := strconv.Atoi(os.Getenv("WORLD_SEEDS")); err == nil {
		return s
	}
	return n
}
