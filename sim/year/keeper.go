package year

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"holdfast/crypto"
	"holdfast/node"
	"holdfast/projection"
	"holdfast/sim/lan"
)

// keeper is one node through all its starts.
type keeper struct {
	w     *World
	name  string
	store projection.Store // what its disk holds
	meter *Meter
	root  *crypto.Root

	life *life // nil while it is down
}

// life is one start of a node.
type life struct {
	node   *node.Node
	cable  *lan.Cable
	cancel context.CancelFunc
	over   chan struct{}
	err    error // to be read when over is closed
}

const url = "sim:"

func (k *keeper) config() node.Config {
	return node.Config{
		DataDir: "/nowhere", Hostname: k.name + ".sim", Roles: []string{node.RoleSMTP, node.RoleDeliver, node.RoleIMAP},
		Store: node.StoreConfig{URL: url, Partitions: 2}, Keys: node.KeysConfig{URL: "file:/nowhere/root.key"},
		SMTP: node.SMTPConfig{Listen: []string{k.name + ":25"}, MaxMessageSize: 4 << 20},
		IMAP: node.ListenConfig{Listen: []string{k.name + ":143"}, AllowPlaintextAuth: true},
	}
}

// keepDB is a database whose Close leaves it for the next start.
type keepDB struct{ projection.Store }

func (keepDB) Close() error { return nil }

// start returns when the node is ready.
func (k *keeper) start() error {
	l := &life{cable: &lan.Cable{}, over: make(chan struct{})}
	logger := slog.New(slog.DiscardHandler)
	if k.w.plan.Log != nil {
		logger = k.w.plan.Log.With("node", k.name)
	}
	n, err := node.New(context.Background(), k.config(), node.Seams{
		Bucket: k.meter, Keys: k.root, Store: keepDB{k.store}, Dial: k.w.net.Dialer(l.cable), Poll: cmp.Or(k.w.plan.Poll, pollEvery),
		Listen: func(ctx context.Context, network, addr string) (net.Listener, error) {
			ear, err := k.w.net.Listen(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return l.cable.Wire(ear), nil
		},
	}, logger)
	if err != nil {
		return fmt.Errorf("%s does not start: %w", k.name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.node, l.cancel = n, cancel
	ready := make(chan struct{})
	go func() {
		defer close(l.over)
		l.err = n.Run(ctx, func() { close(ready) })
	}()
	k.life = l
	select {
	case <-ready:
		return nil
	case <-l.over:
		k.life = nil
		return fmt.Errorf("%s does not start: %w", k.name, l.err)
	case <-time.After(10 * time.Minute):
		return fmt.Errorf("%s does not get ready", k.name)
	}
}

// stop ends the node in order.
func (k *keeper) stop() error {
	l := k.life
	if l == nil {
		return nil
	}
	k.life = nil
	l.cancel()
	<-l.over
	if l.err != nil {
		return fmt.Errorf("%s: %w", k.name, l.err)
	}
	return nil
}

var errDead = errors.New("the node is dead")

// kill ends the node as a power failure does: from now on it reaches nothing.
func (k *keeper) kill() {
	k.meter.Hook(func(string, string) error { return errDead }, nil)
	k.life.cable.Sever()
	_ = k.stop() // what a dead node has to say
	k.meter.Hook(nil, nil)
}

// wipe deletes the node's database.
func (k *keeper) wipe() { k.store = projection.NewMemStore() }

// ask is one request of the administrator.
func (k *keeper) ask(method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	w := httptest.NewRecorder()
	k.life.node.AdminHandler().ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
	if w.Code != http.StatusOK {
		return &refusal{w.Code, fmt.Sprintf("%s %s: %d %s", method, path, w.Code, w.Body)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(w.Body.Bytes(), out)
}

// refusal is an answer other than 200.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

// status asks how the node stands.
func (k *keeper) status() (s node.Status, err error) {
	return s, k.ask(http.MethodGet, "/status", nil, &s)
}
