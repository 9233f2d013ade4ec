package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"holdfast/node"
)

// client speaks to a node over its admin socket.
type client struct {
	http *http.Client
	stop func() // ends a node that was started for this command alone
}

// errNotRunning says that there is no node to speak to.
var errNotRunning = errors.New("the node is not running, or waits for its store (its log says so); start it: holdfast serve -c FILE (or give the -c FILE of the one that runs)")

// maxSocketPath is what fits into a socket's address on Linux, unix(7).
const maxSocketPath = 107

// loadConfig reads the configuration that -c names.
func loadConfig(e *env) (node.Config, error) {
	cfg, err := node.LoadConfig(e.config)
	if err == nil && len(cfg.AdminSocket()) > maxSocketPath {
		err = fmt.Errorf("data_dir is too long: the path of the admin socket in it may have %d bytes; choose a shorter one, or one relative to the working directory", maxSocketPath)
	}
	return cfg, err
}

// connect returns a client of the running node.
func connect(ctx context.Context, e *env) (*client, node.Config, error) {
	cfg, err := loadConfig(e)
	if err != nil {
		return nil, cfg, err
	}
	socket := cfg.AdminSocket()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, cfg, errNotRunning
	}
	if err != nil {
		return nil, cfg, fmt.Errorf("reach the node: %w", err)
	}
	conn.Close()
	return newClient(socket), cfg, nil
}

func newClient(socket string) *client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &client{http: &http.Client{Transport: &http.Transport{DialContext: dial}}, stop: func() {}}
}

// connectOrOpen returns a client of the running node or, while it is down, of
// one that runs for this command alone: it accepts, delivers and serves nothing.
func connectOrOpen(ctx context.Context, e *env) (*client, error) {
	c, cfg, err := connect(ctx, e)
	if !errors.Is(err, errNotRunning) {
		return c, err
	}
	cfg.Roles = []string{}
	n, err := node.New(ctx, cfg, node.Seams{Existing: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- n.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		if err == nil { // it was asked to leave before it was ready
			err = context.Canceled
		}
		return nil, fmt.Errorf("open the log: %w", err)
	}
	c = newClient(cfg.AdminSocket())
	c.stop = func() { cancel(); <-done }
	return c, nil
}

// post sends a request and returns the answer's body, or the failure it tells.
func (c *client) post(ctx context.Context, path string, in any) (io.ReadCloser, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	return c.do(ctx, http.MethodPost, path, bytes.NewReader(body))
}

func (c *client) do(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the node: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var f node.Failure
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&f); err != nil || f.Error == "" {
		return nil, fmt.Errorf("the node answered %s", resp.Status)
	}
	return nil, failure(f)
}

// failure turns what the node told into an error of the right kind.
func failure(f node.Failure) error {
	text := strings.TrimPrefix(f.Error, "wrong request: ") // the exit code says so
	if f.Wrong {
		return &usageError{text}
	}
	return errors.New(text)
}

// request sends one to the running node and decodes its one answer.
func request[Out any](ctx context.Context, e *env, path string, in any) (out Out, err error) {
	c, _, err := connect(ctx, e)
	if err != nil {
		return out, err
	}
	return call[Out](ctx, c, path, in)
}

// requestAnyway is request that works while the node is down, too.
func requestAnyway[Out any](ctx context.Context, e *env, path string, in any) (out Out, err error) {
	c, err := connectOrOpen(ctx, e)
	if err != nil {
		return out, err
	}
	defer c.stop()
	return call[Out](ctx, c, path, in)
}

// fetch sends a request to the node, also while it is down, and hands over the
// body of the answer.
func fetch(ctx context.Context, e *env, path string, in any, take func(io.Reader) error) error {
	c, err := connectOrOpen(ctx, e)
	if err != nil {
		return err
	}
	defer c.stop()
	body, err := c.post(ctx, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	return take(body)
}

// call sends a request and decodes the one answer.
func call[Out any](ctx context.Context, c *client, path string, in any) (out Out, err error) {
	body, err := c.post(ctx, path, in)
	if err != nil {
		return out, err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&out); err != nil {
		return out, fmt.Errorf("read the node's answer: %w", err)
	}
	return out, nil
}

// each sends a request and calls fn for every line of the answer.
func each[Line any](ctx context.Context, c *client, path string, in any, fn func(Line) error) error {
	body, err := c.post(ctx, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	sc := bufio.NewScanner(body)
	sc.Buffer(make([]byte, 64<<10), 64<<20)
	for sc.Scan() {
		var f node.Failure
		if err := json.Unmarshal(sc.Bytes(), &f); err == nil && f.Error != "" {
			return failure(f)
		}
		var line Line
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			return fmt.Errorf("read the node's answer: %w", err)
		}
		if err := fn(line); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	return nil
}

// writeJSON prints one object on one line.
func (e *env) writeJSON(v any) error {
	enc := json.NewEncoder(e.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// createNew makes a file that must not exist yet, for its owner only.
func createNew(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists already and is not overwritten; name another place", path)
	}
	return f, err
}
