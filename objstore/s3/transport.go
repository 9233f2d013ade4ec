package s3

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// errStalled ends a transfer that made no progress for limits.stall.
var errStalled = errors.New("no progress of the transfer")

// exchange is what the transport tells about one call besides its result.
type exchange struct {
	sent atomic.Bool // some of the request may have left this machine
	mu   sync.Mutex
	date time.Time // the server's clock in the answer; zero without one
}

type exchangeKey struct{}

// withExchange returns a context whose request reports to the exchange.
func withExchange(ctx context.Context) (context.Context, *exchange) {
	x := &exchange{}
	ctx = context.WithValue(ctx, exchangeKey{}, x)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// Called before anything is flushed to the connection; a connection that
		// could not be made never gets here.
		WroteHeaderField: func(string, []string) { x.sent.Store(true) },
		WroteHeaders:     func() { x.sent.Store(true) },
	}), x
}

func (x *exchange) answered(h http.Header) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.date = date
}

func (x *exchange) serverTime() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.date
}

// observer notes the server's clock for the exchange of a request, and ends
// answers that stall.
type observer struct {
	next  http.RoundTripper
	stall time.Duration
}

func (o *observer) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := o.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		x.answered(resp.Header)
	}
	resp.Body = &answerBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, stall: o.stall}
	return resp, nil
}

// answerBody cancels its request when a single Read takes too long.
type answerBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration
}

func (b *answerBody) Read(p []byte) (int, error) {
	watchdog := time.AfterFunc(b.stall, func() { b.cancel(errStalled) })
	defer watchdog.Stop()
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errStalled {
		err = errStalled
	}
	return n, err
}

func (b *answerBody) Close() error {
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// stallConn fails a write that makes no progress, such as one to a server that
// was stopped while it received a body.
type stallConn struct {
	net.Conn
	stall time.Duration
}

func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// uploadBody is a request's body that can be taken away from the transport,
// which may go on reading in the background after a request has failed.
type uploadBody struct {
	mu   sync.Mutex
	r    io.Reader
	gone bool
}

func (u *uploadBody) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.gone {
		return 0, errors.New("the request is over")
	}
	return u.r.Read(p)
}

// take ends all use of the reader; it waits for no more than one Read of it.
func (u *uploadBody) take() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.gone = true
}
