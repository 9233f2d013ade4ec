// Package outside drives the built holdfast binary the way its users do: by its
// command line, its configuration file and its protocols, and by nothing else. It
// shares no code with the product, so that a mistake of the product's cannot hide
// behind the same mistake in its tests.
package outside

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast/internal/loopback"
)

// Options say how a node is set up. The zero Options are those of the contract's
// configuration file, with ports chosen by the kernel.
type Options struct {
	Store          string   // store.url; "file:./bucket" when empty
	Roles          []string // all when empty
	MaxMessageSize string   // "64MiB" when empty
	LogLevel       string   // "info" when empty
	Connections    int      // to the SMTP port at one time, from one address too; the defaults when 0
	Env            []string // in addition to the environment, such as the S3 keys
	Keys           string   // keys.url; "file:./root.key" when empty
	Addrs          []string // for SMTP, submission, IMAP and web; free ones when empty
	TestClock      bool     // Node.Clock may be set
}

// Node is one installation: a directory, a configuration and, while it runs, a
// process. Start, Stop and Kill may be called in any order by one goroutine; the
// other methods from any.
type Node struct {
	Binary     string
	Dir        string // everything of the node is below it
	Config     string // the configuration file
	SMTP       string // host:port, as are the next three
	Submission string
	IMAP       string
	Web        string
	Extra      []string // environment of the next start alone
	// Clock is how far starts and commands from now on see the clock ahead; it
	// takes Options.TestClock.
	Clock time.Duration
	env   []string

	log  *Log
	cmd  *exec.Cmd
	done chan struct{} // closed when the process of cmd has ended
}

// DataDir is the directory of caches that may be deleted while the node is down.
func (n *Node) DataDir() string { return filepath.Join(n.Dir, "data") }

// NewNode writes the configuration of a node into dir. Nothing runs yet.
func NewNode(binary, dir string, opt Options) (*Node, error) {
	addrs := opt.Addrs
	if len(addrs) == 0 {
		var err error
		if addrs, err = FreeAddrs(4); err != nil {
			return nil, err
		}
	}
	n := &Node{
		Binary: binary, Dir: dir, Config: filepath.Join(dir, "holdfast.toml"),
		SMTP: addrs[0], Submission: addrs[1], IMAP: addrs[2], Web: addrs[3],
		env: append(os.Environ(), opt.Env...), log: &Log{},
	}
	roles := opt.Roles
	if len(roles) == 0 {
		roles = []string{"smtp", "deliver", "imap", "web"}
	}
	text := ""
	if opt.TestClock {
		text = "test_clock = true\n"
	}
	text += fmt.Sprintf(config, quoteAll(roles), or(opt.Store, "file:./bucket"), or(opt.Keys, "file:./root.key"), n.SMTP, or(opt.MaxMessageSize, "64MiB"), connections(opt.Connections),
		n.Submission, n.IMAP, n.Web, or(opt.LogLevel, "info"))
	return n, os.WriteFile(n.Config, []byte(text), 0o644)
}

const config = `data_dir = "./data"
hostname = "mx.holdfast.test"
roles    = %s

[store]
url = %q

[keys]
url = %q

[bus]
url = "local:"

[smtp]
listen = [%q]
max_message_size = %q
%s
[submission]
listen = [%q]
allow_plaintext_auth = true

[imap]
listen = [%q]
allow_plaintext_auth = true

[web]
listen = %q

[log]
level  = %q
format = "text"
`

func connections(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("max_connections = %d\nmax_connections_per_address = %d\n", n, n)
}

// readyLine is what serve says when it is ready.
var readyLine = regexp.MustCompile(`(?i)\bready\b`)

// startWithin is the longest a start may take, rebuilding its caches included.
const startWithin = 10 * time.Minute

// Start runs serve and returns when it has said that it is ready.
func (n *Node) Start(ctx context.Context) error {
	if err := n.Launch(); err != nil {
		return err
	}
	return n.WaitReady(ctx)
}

// Launch runs serve and returns at once.
func (n *Node) Launch() error {
	if n.Running() {
		return errors.New("node already runs")
	}
	n.log.mark()
	n.cmd = exec.Command(n.Binary, "serve", "-c", n.Config)
	n.cmd.Dir, n.cmd.Env = n.Dir, append(n.environ(), n.Extra...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.SysProcAttr = dieWithParent()
	n.done = make(chan struct{})
	started := make(chan error)
	go func(cmd *exec.Cmd, done chan struct{}) {
		// The kernel kills the node when the thread that made it ends, so this
		// goroutine keeps its thread for as long as the node lives.
		runtime.LockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}(n.cmd, n.done)
	if err := <-started; err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	return nil
}

// environ is the environment of a start or a command.
func (n *Node) environ() []string {
	if n.Clock == 0 {
		return slices.Clip(n.env)
	}
	return append(slices.Clip(n.env), "HOLDFAST_TEST_CLOCK=+"+n.Clock.String())
}

// WaitReady returns when the process started last has said that it is ready.
func (n *Node) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		select {
		case <-n.done:
			return fmt.Errorf("node ended before it was ready (%v); it said:\n%s", n.cmd.ProcessState, n.log.sinceMark())
		case <-ctx.Done():
			return fmt.Errorf("wait for node: %w; it said:\n%s", ctx.Err(), n.log.sinceMark())
		case <-time.After(10 * time.Millisecond):
		}
		if readyLine.MatchString(n.log.sinceMark()) {
			return nil
		}
	}
}

// Running says whether the process lives.
func (n *Node) Running() bool {
	if n.done == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Stop sends SIGTERM and fails if the node has not left within 15 seconds or
// leaves with an error. A node that does not run is not an error.
func (n *Node) Stop() error {
	if !n.Running() {
		return nil
	}
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop node: %w", err)
	}
	select {
	case <-n.done:
	case <-time.After(15 * time.Second):
		n.Kill()
		return errors.New("node did not leave within 15 s of SIGTERM")
	}
	if !n.cmd.ProcessState.Success() {
		return fmt.Errorf("node left with %v; it said:\n%s", n.cmd.ProcessState, n.log.sinceMark())
	}
	return nil
}

// Kill sends SIGKILL and waits until the process is gone.
func (n *Node) Kill() {
	if n.Running() {
		n.cmd.Process.Kill()
		<-n.done
	}
}

// Killed says that the process started last was ended by SIGKILL, its own or ours.
func (n *Node) Killed() bool {
	if n.done == nil || n.Running() {
		return false
	}
	status, ok := n.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Ended returns a channel that is closed when the process started last has ended.
func (n *Node) Ended() <-chan struct{} { return n.done }

// LastLog is what the process started last has written.
func (n *Node) LastLog() string { return n.log.sinceMark() }

// Signal sends a signal such as SIGSTOP to the process.
func (n *Node) Signal(s os.Signal) error { return n.cmd.Process.Signal(s) }

// Log is all that the node has written, over all of its starts.
func (n *Node) Log() string { return n.log.String() }

// Output is what one command did.
type Output struct {
	Stdout, Stderr string
	Code           int
}

// Run runs one command of the binary against this node and returns what it did;
// an error means that it could not be run at all. The environment given is added.
func (n *Node) Run(ctx context.Context, env []string, args ...string) (Output, error) {
	cmd := exec.CommandContext(ctx, n.Binary, append(args, "-c", n.Config)...)
	cmd.Dir, cmd.Env = n.Dir, append(n.environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := Output{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if _, exited := errors.AsType[*exec.ExitError](err); exited && out.Code > 0 {
		err = nil
	}
	return out, err
}

// Must runs one command and fails unless it exits with 0. It returns stdout.
func (n *Node) Must(ctx context.Context, args ...string) (string, error) {
	out, err := n.Run(ctx, nil, args...)
	if err != nil {
		return "", err
	}
	if out.Code != 0 {
		return "", fmt.Errorf("holdfast %s: exit %d: %s%s", strings.Join(args, " "), out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout, nil
}

// Status is the part of `holdfast status --json` that the contract promises.
type Status struct {
	Domains []struct {
		Name   string
		State  string
		Queued int
		Since  time.Time
	}
	Store       json.RawMessage
	Log         json.RawMessage
	Projections json.RawMessage
}

// Status asks the node for its status, ready or not.
func (n *Node) Status(ctx context.Context) (Status, error) {
	var s Status
	out, err := n.Run(ctx, nil, "status", "--json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(out.Stdout), &s); err != nil {
		return s, fmt.Errorf("status: exit %d: %w: %s%s", out.Code, err, out.Stdout, out.Stderr)
	}
	return s, nil
}

// Domain returns the state of one domain and how much is queued for it.
func (n *Node) Domain(ctx context.Context, name string) (state string, queued int, err error) {
	s, err := n.Status(ctx)
	if err != nil {
		return "", 0, err
	}
	for _, d := range s.Domains {
		if d.Name == name {
			return d.State, d.Queued, nil
		}
	}
	return "", 0, fmt.Errorf("status does not list the domain %s", name)
}

// Resident is the resident memory of the process, and the most it ever was, in
// bytes.
func (n *Node) Resident() (now, most int64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	field := func(name string) int64 {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+) kB$`).FindSubmatch(data)
		if m == nil {
			return 0
		}
		kb, _ := strconv.ParseInt(string(m[1]), 10, 64)
		return kb << 10
	}
	return field("VmRSS"), field("VmHWM"), nil
}

// PID is the number of the process.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// CPU is what the process has used of all processors since it was started, in
// user space and in the kernel, to a hundredth of a second.
func (n *Node) CPU() (time.Duration, error) { return CPU(n.PID()) }

// CPU is as [Node.CPU], of any process.
func CPU(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses, which may hold
	// anything; utime and stime are fields 14 and 15.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor time: %w", err)
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ, which the kernel promises for ever
	return time.Duration(ticks) * time.Second / perSecond, nil
}

// Log collects output. It may be written and read at once.
type Log struct {
	mu     sync.Mutex
	text   bytes.Buffer
	marked int
}

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String is all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *Log) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marked = l.text.Len()
}

func (l *Log) sinceMark() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text.Bytes()[l.marked:])
}

// FreeAddrs returns n addresses on loopback that nobody listened on a moment ago.
func FreeAddrs(n int) ([]string, error) {
	var addrs []string
	for range n {
		addr, err := loopback.Addr()
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func quoteAll(words []string) string {
	var quoted []string
	for _, w := range words {
		quoted = append(quoted, strconv.Quote(w))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
