package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/node"
)

// demoNode is the demo's node: a process of its own, made of this executable.
// All paths in its configuration are relative to its directory, so that the
// path of the admin socket stays short wherever that is.
type demoNode struct {
	exe, dir string
	config   string // the file, seen from dir
	env      []string
	log      *nodeLog
	cmd      *exec.Cmd
	ended    chan struct{} // closed when the process of cmd has ended
}

const demoConfig = `data_dir = "./data"
hostname = "mx.acme.test"

[store]
url = "file:./bucket"

[keys]
url = "file:./root.key"

[smtp]
listen = [%q]

[submission]
listen = [%q]
allow_plaintext_auth = true

[imap]
listen = [%q]
allow_plaintext_auth = true

[web]
listen = %q

[log]
level  = "info"
format = "json"
`

// anyPort lets the kernel choose, so that demos and other programs never meet.
const anyPort = "127.0.0.1:0"

// configure writes the configuration.
func (n *demoNode) configure(smtp, submission, imap, web string) error {
	text := fmt.Sprintf(demoConfig, smtp, submission, imap, web)
	return os.WriteFile(filepath.Join(n.dir, n.config), []byte(text), 0o600)
}

// newDemoNode prepares a node in dir. Close it.
func newDemoNode(dir string) (*demoNode, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's file: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "node.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	n := &demoNode{exe: exe, dir: dir, config: "holdfast.toml", log: &nodeLog{file: f}}
	n.env = append(os.Environ(), passphraseVar+"=only for this demo")
	return n, n.configure(anyPort, anyPort, anyPort, anyPort)
}

const (
	startPatience = 30 * time.Second
	stopPatience  = 16 * time.Second // the node promises 15 s
)

// start runs serve and returns how long it took to be ready.
func (n *demoNode) start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	n.log.forget()
	n.cmd = exec.Command(n.exe, "serve", "-c", n.config)
	n.cmd.Dir, n.cmd.Env = n.dir, n.env
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	// Nothing is left behind even if the demo is killed.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	n.ended = make(chan struct{})
	started := make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan struct{}) {
		// The kernel takes the end of the thread that made the process for the end of
		// its parent, so this goroutine keeps its thread as long as the process lives.
		runtime.LockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is read from the process's state
		}
	}(n.cmd, n.ended)
	if err := <-started; err != nil {
		return 0, fmt.Errorf("start the node: %w", err)
	}
	err := poll(ctx, startPatience, "the node to be ready", func() error {
		select {
		case <-n.ended:
			return fatal(fmt.Errorf("the node ended at once (%v): %s", n.cmd.ProcessState, n.log.lastLine()))
		default:
		}
		if !n.log.isReady() {
			return errors.New("it has not said so")
		}
		return nil
	})
	return time.Since(began), err
}

// running says whether the process lives.
func (n *demoNode) running() bool {
	if n.ended == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// kill ends the process as a power cut would.
func (n *demoNode) kill() {
	if n.running() {
		_ = n.cmd.Process.Kill() // it may have ended by itself
		<-n.ended
	}
}

// stop asks the process to leave and returns how long that took.
func (n *demoNode) stop() (time.Duration, error) {
	if !n.running() {
		return 0, nil
	}
	began := time.Now()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	late := time.NewTimer(stopPatience)
	defer late.Stop()
	select {
	case <-n.ended:
	case <-late.C:
		n.kill()
		return 0, fmt.Errorf("the node did not leave within %v", stopPatience)
	}
	if !n.cmd.ProcessState.Success() {
		return 0, fmt.Errorf("the node left with %v", n.cmd.ProcessState)
	}
	return time.Since(began), nil
}

// close ends the process, if it runs, and the log.
func (n *demoNode) close() {
	if _, err := n.stop(); err != nil {
		n.kill()
	}
	n.log.file.Close()
}

// holdfast runs a command of this program and returns what it printed. A
// command that fails is an error with its one line.
func (n *demoNode) holdfast(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.exe, append(args, "-c", n.config)...)
	cmd.Dir, cmd.Env = n.dir, n.env
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("holdfast %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// domain returns how the demo's domain stands.
func (n *demoNode) domain(ctx context.Context) (d node.DomainStatus, err error) {
	out, err := n.holdfast(ctx, "status", "--json")
	if err != nil {
		return d, err
	}
	var s node.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return d, fmt.Errorf("read the status: %w", err)
	}
	if len(s.Domains) != 1 {
		return d, fmt.Errorf("status lists %s, want 1", count(len(s.Domains), "domain"))
	}
	return s.Domains[0], nil
}

// rows runs a search.
func (n *demoNode) rows(ctx context.Context, selectors ...string) (rows []node.Row, err error) {
	out, err := n.holdfast(ctx, append([]string{"shadow", "search", "--json"}, selectors...)...)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		var r node.Row
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("read a row of the search: %w", err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// upstreamChange is a change of the primary's state, as the node's log tells it.
type upstreamChange struct {
	at       time.Time
	to       string
	observed string
}

// nodeLog writes what the node says to a file and remembers what the demo needs
// of it.
type nodeLog struct {
	file *os.File

	mu      sync.Mutex
	partial []byte
	line    string // the last whole one
	ready   bool
	addrs   map[string]string // what is listened for, to address
	changes []upstreamChange
}

// Write implements io.Writer.
func (l *nodeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexByte(l.partial, '\n')
		if i < 0 {
			break
		}
		l.take(l.partial[:i])
		l.partial = l.partial[i+1:]
	}
	return l.file.Write(p)
}

// take reads one line. The mutex is held.
func (l *nodeLog) take(line []byte) {
	l.line = string(line)
	if string(line) == readyLine {
		l.ready = true
		return
	}
	var e struct {
		Time     time.Time `json:"time"`
		Msg      string    `json:"msg"`
		For      string    `json:"for"`
		Address  string    `json:"address"`
		To       string    `json:"to"`
		Observed string    `json:"observed"`
	}
	if json.Unmarshal(line, &e) != nil {
		return // not a line of the log, a panic for instance; it is in the file
	}
	switch {
	case e.Msg == "listening":
		l.addrs[e.For] = e.Address
	case e.Msg == "upstream state":
		l.changes = append(l.changes, upstreamChange{e.Time, e.To, e.Observed})
	}
}

// forget prepares for another process.
func (l *nodeLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready, l.addrs, l.partial = false, map[string]string{}, nil
}

func (l *nodeLog) isReady() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

func (l *nodeLog) lastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}

// addr returns where the node listens for a protocol.
func (l *nodeLog) addr(what string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addrs[what]
}

// since returns the changes of the primary's state after t.
func (l *nodeLog) since(t time.Time) []upstreamChange {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.changes, func(c upstreamChange) bool { return c.at.After(t) })
	if i < 0 {
		return nil
	}
	return slices.Clone(l.changes[i:])
}

// fatalError ends a poll: waiting longer would not help.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

func fatal(err error) error { return fatalError{err} }

// poll looks until there is no error, and fails with the last one after within.
func poll(ctx context.Context, within time.Duration, what string, look func() error) error {
	const every = 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		err := look()
		if f, ok := errors.AsType[fatalError](err); ok {
			return f.error
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s: %w", within, what, err)
		case <-t.C:
		}
	}
}
