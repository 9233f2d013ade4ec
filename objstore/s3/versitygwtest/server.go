package versitygwtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/internal/loopback"
)

const (
	// startTime is how long a server may take until it answers.
	startTime = 30 * time.Second
	// maxLog is how much of a server's output is kept for the error that says
	// why it did not start.
	maxLog = 64 << 10
	// portTries is how often another port is tried when somebody took the one
	// that was free a moment ago.
	portTries = 5
)

// Start starts a server that stops with the test and returns the URL of an
// empty bucket on it, for objstore/open, and the environment with its keys. Use
// StartServer to stop, freeze or restart it.
func Start(tb testing.TB) (url string, env map[string]string) {
	tb.Helper()
	s := StartServer(tb)
	return s.URL("holdfast", ""), s.Env()
}

// StartServer starts a server that stops with the test. Its data is in a
// temporary directory of the test's.
func StartServer(tb testing.TB) *Server {
	tb.Helper()
	s, err := Launch(tb.Context(), tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	return s
}

// StartVersioned is as StartServer for a server that can keep versions: buckets
// made with Object Lock have them.
func StartVersioned(tb testing.TB) *Server {
	tb.Helper()
	s, err := launch(tb.Context(), tb.TempDir(), tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Kill)
	return s
}

// Server is a running or stopped versitygw, or MinIO. Its methods may be called from one
// goroutine at a time.
type Server struct {
	program, dir string
	minio        bool   // it is MinIO
	versions     string // directory of old versions; empty where none are kept
	addr         string
	access       string
	secret       string

	process *process // nil while stopped
}

// process is one run of the program.
type process struct {
	cmd    *exec.Cmd
	log    *head
	exited chan struct{} // closed when the process is gone
}

// Launch builds the server if needed and starts it with its data in dir, which
// must exist and allow extended attributes. The caller ends it with Kill or
// Stop. Cancelling ctx ends only the wait for the start.
func Launch(ctx context.Context, dir string) (*Server, error) { return launch(ctx, dir, "") }

func launch(ctx context.Context, dir, versions string) (*Server, error) {
	program, minio, err := pick(ctx)
	if err != nil {
		return nil, err
	}
	s := &Server{program: program, minio: minio, dir: dir, versions: versions, access: "test-" + strings.ToLower(rand.Text()), secret: rand.Text()}
	for try := 1; ; try++ {
		if s.addr, err = loopback.Addr(); err != nil {
			return nil, err
		}
		if err = s.Restart(ctx); err == nil || try == portTries || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("start the S3 server: %w", err)
	}
	return s, nil
}

// Endpoint returns http://HOST:PORT, which stays the same over restarts.
func (s *Server) Endpoint() string { return "http://" + s.addr }

// URL returns the URL of a bucket, and of a prefix in it unless that is empty.
func (s *Server) URL(bucket, prefix string) string {
	path := bucket
	if prefix != "" {
		path += "/" + prefix
	}
	return "s3://" + path + "?endpoint=" + s.Endpoint() + "&region=us-east-1"
}

// Env returns the variables with the server's keys.
func (s *Server) Env() map[string]string {
	return map[string]string{"HOLDFAST_S3_ACCESS_KEY": s.access, "HOLDFAST_S3_SECRET_KEY": s.secret}
}

// Getenv looks up Env, as os.Getenv does the environment.
func (s *Server) Getenv(name string) string { return s.Env()[name] }

// Dir returns the directory with the server's data.
func (s *Server) Dir() string { return s.dir }

// Pid returns the id of the server's process, or 0 while it is stopped.
func (s *Server) Pid() int {
	if s.process == nil {
		return 0
	}
	return s.process.cmd.Process.Pid
}

// Restart starts the server again on the same address and data, after killing
// it if it runs, and returns when it answers.
func (s *Server) Restart(ctx context.Context) error {
	s.Kill()
	p, err := s.run()
	if err != nil {
		return err
	}
	s.process = p
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := s.awaitAnswer(ctx, p); err != nil {
		s.Kill()
		return fmt.Errorf("%w\n%s", err, p.log)
	}
	return nil
}

// run starts the program.
func (s *Server) run() (*process, error) {
	cmd := s.command()
	p := &process{cmd: cmd, log: &head{}, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	dieWithParent(cmd)
	started := make(chan error)
	go func() {
		// The kernel kills the child when the thread that made it ends, so this
		// goroutine keeps its thread for as long as the child lives.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // Killed or crashed; awaitAnswer tells the difference.
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (s *Server) awaitAnswer(ctx context.Context, p *process) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	url, status := s.ready()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if status == 0 || resp.StatusCode == status {
				return nil
			}
		}
		select {
		case <-p.exited:
			return errors.New("the server ended at once")
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop asks the server to end (SIGTERM) and waits until it has.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends the server at once (SIGKILL), frozen or not, and waits until it is
// gone. Killing a stopped server does nothing.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) {
	if s.process == nil {
		return
	}
	s.signal(sig)
	<-s.process.exited
	s.process = nil
}

// Freeze stops the server's process (SIGSTOP) and returns when it has stopped:
// connections are still accepted by the kernel, and nothing answers. It must be
// running and not frozen.
func (s *Server) Freeze() {
	s.signal(syscall.SIGSTOP)
	awaitStop(s.Pid())
}

// Thaw lets a frozen server go on.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	if s.process == nil {
		panic("internal error: signal to a server that is not running")
	}
	// It fails only for a process that is gone already.
	_ = s.process.cmd.Process.Signal(sig)
}

// head keeps the first maxLog bytes of a server's output.
type head struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Write(p[:min(len(p), maxLog-h.buf.Len())])
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}
