package sim

import (
	"context"
	"errors"
	"fmt"
	"holdfast/sim/check"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/internal/turn"
	"holdfast/node"
	"holdfast/projection"
)

// machine is one node through all its starts. Its fields below mu are guarded by
// it, the others belong to the driver.
type machine struct {
	w      *World
	name   string
	starts int
	skew   atomic.Int64     // the store's clock minus this one's, in nanoseconds
	keep   projection.Store // what the local disk holds
	roles  []string
	rest   time.Time // when it is started again
	life   *life     // nil while it is down
	old    []*life   // dead, with goroutines that have not noticed yet
}

// life is one start of a node, to its end.
type life struct {
	name   string
	host   *host
	store  *disk
	cancel context.CancelFunc
	ended  chan struct{}

	stopping bool // the driver's

	mu    sync.Mutex
	node  *node.Node
	ready bool
	err   error
}

func (l *life) over() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

func (l *life) isReady() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

// config is the same for every node but for its name.
func (m *machine) config() node.Config {
	return node.Config{
		DataDir: "/nowhere", Hostname: m.name + ".sim", Roles: m.roles,
		Store:      node.StoreConfig{URL: "sim:", Partitions: m.w.plan.Partitions},
		Keys:       node.KeysConfig{URL: "file:/nowhere/root.key"},
		Bus:        node.BusConfig{URL: "local:"},
		SMTP:       node.SMTPConfig{Listen: []string{m.name + ":25"}, MaxMessageSize: 1 << 20},
		Submission: node.ListenConfig{Listen: []string{m.name + ":587"}, AllowPlaintextAuth: true},
		IMAP:       node.ListenConfig{Listen: []string{m.name + ":143"}, AllowPlaintextAuth: true},
		Log:        node.LogConfig{Level: "info", Format: "text"},
	}
}

// start begins a life. It is called by the driver.
func (m *machine) start() {
	m.starts++
	if f := m.w.faults; f.strikes(m.w.rng, f.skew) {
		most := time.Minute
		if m.w.rng.IntN(5) == 0 {
			most = 20 * time.Minute
		}
		m.skew.Store(m.w.rng.Int64N(int64(2*most)) - int64(most))
	}
	l := &life{name: fmt.Sprintf("%s.%d", m.name, m.starts), ended: make(chan struct{})}
	l.host = m.w.net.host(m.name, l.name)
	l.store = &disk{Store: m.keep}
	m.life = l
	ctx, cancel := context.WithCancel(turn.With(context.Background(), m.w.bus.Order, l.name))
	l.cancel = cancel
	seams := node.Seams{
		Bucket: &view{b: m.w.bucket, host: l.host, skew: &m.skew},
		Keys:   &keys{bus: m.w.bus, faults: m.w.faults, host: l.host, root: m.w.root},
		Store:  l.store, Listen: l.host.Listen, Dial: l.host.Dial,
	}
	logger := slog.New(slog.DiscardHandler)
	if m.w.Log != nil {
		logger = m.w.Log.With("node", l.name)
	}
	m.w.bus.Note(l.name + " starts")
	go func() {
		defer close(l.ended)
		turn.Take(ctx, "start")
		err := l.run(ctx, m.config(), seams, logger)
		l.mu.Lock()
		l.ready, l.err = false, err
		l.mu.Unlock()
	}()
}

func (l *life) run(ctx context.Context, cfg node.Config, seams node.Seams, logger *slog.Logger) error {
	n, err := node.New(ctx, cfg, seams, logger)
	if err != nil {
		return fmt.Errorf("new: %w", err)
	}
	l.mu.Lock()
	l.node = n
	l.mu.Unlock()
	return n.Run(ctx, func() {
		l.mu.Lock()
		l.ready = true
		l.mu.Unlock()
	})
}

// admin returns the handler of the machine's node, nil while it is down.
func (m *machine) admin() http.Handler {
	if m.life == nil {
		return nil
	}
	m.life.mu.Lock()
	defer m.life.mu.Unlock()
	if m.life.node == nil {
		return nil
	}
	return m.life.node.AdminHandler()
}

// kill ends a life at once. What the node has put stays, and what its local
// database has committed, unless that is lost too, or its last commits; nothing
// that the node does from now on has an effect.
func (m *machine) kill(r *rand.Rand) {
	l := m.life
	fate := "kept"
	switch p := r.IntN(10); {
	case p == 0:
		fate, m.keep = "lost", projection.NewMemStore()
	case p <= 2:
		fate, m.keep = "taken back", l.store.before()
	}
	m.w.bus.Note(l.name + " is killed, its database is " + fate)
	m.w.kills = append(m.w.kills, check.Kill{Node: m.name, At: m.w.Order.Now()})
	pause := 20 * time.Second
	if r.IntN(8) == 0 {
		pause = 3 * time.Minute
	}
	m.rest = time.Now().Add(time.Duration(r.Int64N(int64(pause))))
	l.store.die()
	l.host.kill()
	l.cancel()
	m.old = append(m.old, l)
	m.life = nil
}

// stop asks a life to end.
func (m *machine) stop() {
	m.w.bus.Note(m.life.name + " is stopped")
	m.life.stopping = true
	m.life.cancel()
}

// tend starts what is down and due, and buries what has ended.
func (m *machine) tend(now time.Time) {
	for len(m.old) > 0 && m.old[0].over() {
		m.old = m.old[1:]
	}
	if l := m.life; l != nil && l.over() {
		if l.err != nil {
			m.w.bus.Note(fmt.Sprintf("%s has ended: %v", l.name, l.err))
		}
		l.store.die()
		l.host.kill()
		m.life = nil
		if !m.rest.After(now) {
			m.rest = now.Add(time.Second + time.Duration(m.w.rng.Int64N(int64(4*time.Second))))
		}
	}
	if m.life == nil && !m.w.ending && !m.rest.After(now) {
		m.start()
	}
}

// disk is the local database of one life. Once that is over, nothing changes it
// any more.
type disk struct {
	projection.Store

	mu   sync.Mutex
	dead bool
	past []projection.Snapshot // before the last commits
}

// maxPast is how many commits a crash of the machine may take back.
const maxPast = 6

// before returns a store as it was some commits ago.
func (d *disk) before() projection.Store {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := projection.NewMemStore()
	if len(d.past) == 0 {
		return s
	}
	var ops []projection.Op
	for it, err := range d.past[0].Scan(nil, nil, false) {
		if err != nil {
			panic("internal error: " + err.Error())
		}
		ops = append(ops, projection.Op{Key: it.Key, Value: it.Value})
	}
	if err := s.Commit(ops); err != nil {
		panic("internal error: " + err.Error())
	}
	return s
}

func (d *disk) die() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
}

// Commit implements projection.Store.
func (d *disk) Commit(ops []projection.Op) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return errDead
	}
	snap, err := d.Store.Snapshot()
	if err != nil {
		return err
	}
	if d.past = append(d.past, snap); len(d.past) > maxPast {
		d.past = d.past[1:]
	}
	return d.Store.Commit(ops)
}

// Close implements projection.Store: the next life uses it.
func (d *disk) Close() error { return nil }

var errNotReady = errors.New("no node is ready")
