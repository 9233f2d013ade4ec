package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/objstore"
	"holdfast/objstore/s3/versitygwtest"
)

// pretend opens a bucket on a server of the test's own.
func pretend(t *testing.T, l limits, handler http.HandlerFunc) *Bucket {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return connect(t, l, server.URL)
}

// impatient are the limits of tests that wait for one of them.
func impatient() limits {
	l := defaultLimits()
	l.silence, l.stall = 300*time.Millisecond, 300*time.Millisecond
	return l
}

func connect(t *testing.T, l limits, endpoint string) *Bucket {
	t.Helper()
	b, err := newBucket(Config{Endpoint: endpoint, Bucket: "holdfast", AccessKey: "access", SecretKey: "hush-hush"}, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func put(ctx context.Context, b objstore.Bucket, key, value string, opt objstore.PutOptions) error {
	_, err := b.Put(ctx, key, strings.NewReader(value), int64(len(value)), opt)
	return err
}

// TestPutAnswers checks what every answer to a PUT means to the caller.
func TestPutAnswers(t *testing.T) {
	var (
		none   objstore.PutOptions
		create = objstore.PutOptions{IfAbsent: true}
		swap   = objstore.PutOptions{IfMatch: "abc"}
	)
	definite := errors.New("a definite failure")
	for _, c := range []struct {
		status int
		code   string
		opt    objstore.PutOptions
		want   error
	}{
		{412, "PreconditionFailed", create, objstore.ErrExists},
		{412, "PreconditionFailed", swap, objstore.ErrChanged},
		{412, "PreconditionFailed", none, definite},
		{409, "ConditionalRequestConflict", create, objstore.ErrExists},
		{409, "ConditionalRequestConflict", swap, objstore.ErrChanged},
		{409, "OperationAborted", none, definite},
		{409, "ObjectParentIsFile", create, definite},
		{404, "NoSuchKey", swap, objstore.ErrChanged},
		{404, "NoSuchBucket", swap, definite},
		{404, "NoSuchBucket", create, definite},
		{400, "BadDigest", create, definite},
		{403, "AccessDenied", create, definite},
		{403, "SignatureDoesNotMatch", create, definite},
		{408, "RequestTimeout", create, objstore.ErrAmbiguous},
		{429, "TooManyRequests", create, definite},
		{500, "InternalError", create, objstore.ErrAmbiguous},
		{501, "NotImplemented", create, definite},
		{502, "", create, objstore.ErrAmbiguous},
		{503, "SlowDown", create, objstore.ErrAmbiguous},
		{504, "", none, objstore.ErrAmbiguous},
		{507, "InsufficientStorage", create, definite},
		{307, "TemporaryRedirect", create, definite},
	} {
		t.Run(fmt.Sprint(c.status, c.code, c.opt), func(t *testing.T) {
			var requests atomic.Int64
			b := pretend(t, defaultLimits(), func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				io.Copy(io.Discard, r.Body)
				w.WriteHeader(c.status)
				if c.code != "" {
					fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", c.code)
				}
			})
			err := put(t.Context(), b, "k", "value", c.opt)
			if err == nil {
				t.Fatal("Put succeeded")
			}
			for _, kind := range []error{objstore.ErrExists, objstore.ErrChanged, objstore.ErrAmbiguous, objstore.ErrNotExist} {
				if errors.Is(err, kind) != (kind == c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("%d requests, want one: nothing may be retried", n)
			}
		})
	}
}

// TestPutRequest checks what is sent: conditions, length, digest, and the key
// under its prefix.
func TestPutRequest(t *testing.T) {
	headers := make(chan *http.Request, 1)
	b := pretend(t, defaultLimits(), func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		headers <- r
		w.Header().Set("ETag", `"new"`)
	})
	b.prefix = "some/prefix/"
	for _, c := range []struct {
		opt         objstore.PutOptions
		match, none string
	}{
		{objstore.PutOptions{}, "", ""},
		{objstore.PutOptions{IfAbsent: true}, "", "*"},
		{objstore.PutOptions{IfMatch: "old"}, `"old"`, ""},
	} {
		info, err := b.Put(t.Context(), "log/1", strings.NewReader("value"), 5, c.opt)
		if err != nil || info.ETag != "new" || info.Modified.IsZero() || info.Key != "log/1" {
			t.Errorf("info %+v, %v", info, err)
		}
		r := <-headers
		const digest = "cd42404d52ad55ccfa9aca4adc828aa5800ad9d385a0671fbcbf724118320619"
		if r.URL.Path != "/holdfast/some/prefix/log/1" || r.ContentLength != 5 ||
			r.Header.Get("If-Match") != c.match || r.Header.Get("If-None-Match") != c.none ||
			r.Header.Get("X-Amz-Content-Sha256") != digest {
			t.Errorf("request for %+v: %s, length %d, headers %v", c.opt, r.URL.Path, r.ContentLength, r.Header)
		}
	}
}

// TestConfirmationWithoutETag: a value nobody can swap against is no success.
func TestConfirmationWithoutETag(t *testing.T) {
	b := pretend(t, defaultLimits(), func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	if err := put(t.Context(), b, "k", "x", objstore.PutOptions{}); !errors.Is(err, objstore.ErrAmbiguous) {
		t.Error(err)
	}
}

// TestPutOnBrokenLines breaks the connection at each point of a PUT.
func TestPutOnBrokenLines(t *testing.T) {
	refused := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return "http://" + l.Addr().String()
	}()
	err := put(t.Context(), connect(t, defaultLimits(), refused), "k", "x", objstore.PutOptions{})
	if err == nil || errors.Is(err, objstore.ErrAmbiguous) {
		t.Errorf("connection refused: %v, want a definite failure", err)
	}
	err = put(t.Context(), connect(t, defaultLimits(), "http://no-such-host.invalid"), "k", "x", objstore.PutOptions{})
	if err == nil || errors.Is(err, objstore.ErrAmbiguous) {
		t.Errorf("unknown host: %v, want a definite failure", err)
	}

	// A server that hangs up at once may be noticed before anything was sent.
	err = put(t.Context(), connect(t, defaultLimits(), rawServer(t, func(c net.Conn) { c.Close() })), "k", "x", objstore.PutOptions{})
	if err == nil {
		t.Error("Put to a server that hangs up succeeded")
	}

	for name, serve := range map[string]func(c net.Conn){
		"closed after some":      func(c net.Conn) { io.CopyN(io.Discard, c, 1000); c.Close() },
		"silent":                 func(c net.Conn) { io.Copy(io.Discard, c) },
		"silent without reading": func(net.Conn) {},
		"closed within answer":   func(c net.Conn) { io.CopyN(io.Discard, c, 1000); io.WriteString(c, "HTTP/1.1 200"); c.Close() },
		"nonsense":               func(c net.Conn) { io.CopyN(io.Discard, c, 1000); io.WriteString(c, "220 mail\r\n\r\n"); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := connect(t, impatient(), rawServer(t, serve))
			start := time.Now()
			err := put(t.Context(), b, "k", strings.Repeat("x", 8<<20), objstore.PutOptions{IfAbsent: true})
			if !errors.Is(err, objstore.ErrAmbiguous) {
				t.Errorf("%v, want ambiguous", err)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v: the limits do not hold", d)
			}
			if strings.Contains(fmt.Sprint(err), "hush") {
				t.Error("the error tells the secret")
			}
		})
	}
}

// rawServer accepts connections, hands each to serve and returns its URL.
func rawServer(t *testing.T, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
			go serve(c) // Ends when its connection does.
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
	return "http://" + l.Addr().String()
}

// TestGetOnBrokenLines: a transfer that breaks off or stalls is an error, never
// a short value.
func TestGetOnBrokenLines(t *testing.T) {
	for name, end := range map[string]func(w http.ResponseWriter, r *http.Request){
		"broken off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"stalled":    func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			l := defaultLimits()
			l.stall = time.Second
			b := pretend(t, l, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"e"`)
				w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
				w.Header().Set("Content-Length", "1000")
				w.Write(make([]byte, 400))
				w.(http.Flusher).Flush()
				end(w, r)
			})
			r, info, err := b.Get(t.Context(), "k", 0, -1)
			if err != nil || info.Size != 1000 {
				t.Fatal(info, err)
			}
			defer r.Close()
			start := time.Now()
			got, err := io.ReadAll(r)
			if err == nil || len(got) != 400 {
				t.Errorf("read %d bytes, %v; want 400 and an error", len(got), err)
			}
			if name == "stalled" && !errors.Is(err, errStalled) {
				t.Errorf("got %v, want %v", err, errStalled)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

// TestRangeIgnored: a server may answer a range with the whole value.
func TestRangeIgnored(t *testing.T) {
	b := pretend(t, defaultLimits(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		io.WriteString(w, "0123456789")
	})
	for _, c := range []struct {
		off, n int64
		want   string
	}{{0, -1, "0123456789"}, {3, 4, "3456"}, {8, 100, "89"}, {10, 5, ""}, {50, -1, ""}} {
		r, info, err := b.Get(t.Context(), "k", c.off, c.n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if string(got) != c.want || err != nil || info.Size != 10 {
			t.Errorf("Get(%d, %d): %q, %v, %+v", c.off, c.n, got, err, info)
		}
	}
}

// TestAnswerWithoutLength: without it a broken transfer could look complete.
func TestAnswerWithoutLength(t *testing.T) {
	b := pretend(t, defaultLimits(), func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Write(make([]byte, 100<<10))
	})
	if _, _, err := b.Get(t.Context(), "k", 0, -1); err == nil || errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("Get of a value without a length: %v", err)
	}
}

func TestContentRange(t *testing.T) {
	for s, want := range map[string][2]int64{
		"bytes 0-9/10": {0, 10}, "bytes 5-5/6": {5, 6},
		"bytes */10": {-1, -1}, "bytes 0-9/*": {-1, -1}, "": {-1, -1}, "bytes 9-0/5": {-1, -1}, "bytes -1-2/5": {-1, -1},
	} {
		start, total, err := parseContentRange(s)
		if err != nil {
			start, total = -1, -1
		}
		if start != want[0] || total != want[1] {
			t.Errorf("%q: %d, %d, %v", s, start, total, err)
		}
	}
}

// TestServerComesAndGoes freezes, kills and restarts a real server between and
// during Puts. What was confirmed stays; what was not is settled by repeating it.
func TestServerComesAndGoes(t *testing.T) {
	server := versitygwtest.StartServer(t)
	c := testConfig(server, "")
	b, err := newBucket(c, defaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.ensureBucket(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	create := objstore.PutOptions{IfAbsent: true}
	if err := put(t.Context(), b, "log/1", "one", create); err != nil {
		t.Fatal(err)
	}

	server.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err = put(ctx, b, "log/2", "two", create)
	if !errors.Is(err, objstore.ErrAmbiguous) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Put to a frozen server: %v", err)
	}
	server.Thaw() // What was sent may land now, before or after the repetition.
	if err := put(t.Context(), b, "log/2", "two", create); err != nil && !errors.Is(err, objstore.ErrExists) {
		t.Fatalf("repeated Put: %v", err)
	}

	server.Kill()
	// A connection kept from before may be found dead only after something was
	// sent on it; the second attempt has to connect and is refused.
	for range 2 {
		err = put(t.Context(), b, "log/3", "three", create)
	}
	if err == nil || errors.Is(err, objstore.ErrAmbiguous) {
		t.Fatalf("Put to a dead server: %v, want a definite failure", err)
	}
	if _, err := b.Now(t.Context()); err == nil {
		t.Error("a dead server's clock goes on")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := put(t.Context(), b, "log/3", "three", create); err != nil && !errors.Is(err, objstore.ErrExists) {
		t.Fatalf("Put after the restart: %v", err)
	}
	for key, want := range map[string]string{"log/1": "one", "log/2": "two", "log/3": "three"} {
		got, _, err := objstore.ReadAll(t.Context(), b, key, 100)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
}

// TestOpenFailures: what stops a start is said, and a key is refused, not tried
// again for ever.
func TestOpenFailures(t *testing.T) {
	server := versitygwtest.StartServer(t)
	good := testConfig(server, "")
	for name, change := range map[string]func(c *Config){
		"no endpoint":     func(c *Config) { c.Endpoint = "" },
		"strange scheme":  func(c *Config) { c.Endpoint = "ftp://x" },
		"endpoint's path": func(c *Config) { c.Endpoint += "/path" },
		"no bucket":       func(c *Config) { c.Bucket = "" },
		"bad bucket":      func(c *Config) { c.Bucket = "A B" },
		"no keys":         func(c *Config) { c.AccessKey = "" },
		"nobody there":    func(c *Config) { c.Endpoint = "http://127.0.0.1:1" },
	} {
		c := good
		change(&c)
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	wrong := good
	wrong.SecretKey = "wrong"
	// Asking is refused, which may be all these keys lack; then writing is.
	b, err := Open(t.Context(), wrong)
	if err == nil {
		defer b.Close()
		err = put(t.Context(), b, "k", "x", objstore.PutOptions{})
	}
	if err == nil || errors.Is(err, objstore.ErrAmbiguous) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong key: %v", err)
	}
}

// TestConnectionsAreReused puts and gets from many goroutines and counts
// connections.
func TestConnectionsAreReused(t *testing.T) {
	var conns atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"e"`)
		if r.Method == http.MethodGet {
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("Content-Length", fmt.Sprint(100<<10))
			w.Write(make([]byte, 100<<10))
		}
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	b := connect(t, defaultLimits(), server.URL)
	done := make(chan error)
	const workers, rounds = 20, 50
	for range workers {
		go func() {
			var err error
			for range rounds {
				_, _, gerr := objstore.ReadAll(context.Background(), b, "k", 1<<20)
				err = errors.Join(err, gerr, put(context.Background(), b, "k", "x", objstore.PutOptions{}))
			}
			done <- err
		}()
	}
	for range workers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := conns.Load(); n > 3*workers {
		t.Errorf("%d connections for %d workers of %d puts and gets", n, workers, rounds)
	}
}

// FuzzContentRange: an accepted header has sane numbers.
func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 0-9/10", "bytes */10", "bytes 0-9/*", "items 1-2/3", "bytes 9223372036854775808-1/2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start, total, err := parseContentRange(s)
		if err == nil && (start < 0 || total < start) {
			t.Errorf("%q: start %d of %d", s, start, total)
		}
	})
}
