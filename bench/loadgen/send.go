package loadgen

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load says what to send where.
type Load struct {
	Addr     string    // host:port of the server
	Messages []Message // sent round and round
	Count    int       // how many messages are sent in all
	Sessions int       // connections at once
	PerConn  int       // messages on one connection before it is closed; 0 means no limit
	Timeout  time.Duration
	Tag      string // distinguishes the Message-IDs of this run from those of others
}

// Result is what one run saw.
type Result struct {
	Accepted int
	Refused  map[string]int // by reply code; a broken connection is "lost"
	Bytes    int64          // of accepted messages, before dot-stuffing
	Elapsed  time.Duration  // from the first connection to the last answer
	Dot      Latency        // from the final dot being written to its answer
	Whole    Latency        // from MAIL to the answer to the final dot
}

// Rate is accepted messages a second.
func (r Result) Rate() float64 { return float64(r.Accepted) / r.Elapsed.Seconds() }

// MBps is accepted megabytes (10^6 bytes) a second.
func (r Result) MBps() float64 { return float64(r.Bytes) / 1e6 / r.Elapsed.Seconds() }

// String is one line for a reader.
func (r Result) String() string {
	s := fmt.Sprintf("%d accepted in %.1fs: %.0f/s, %.1f MB/s, dot p50 %s p99 %s, whole p50 %s p99 %s",
		r.Accepted, r.Elapsed.Seconds(), r.Rate(), r.MBps(), round(r.Dot.P50), round(r.Dot.P99), round(r.Whole.P50), round(r.Whole.P99))
	for _, code := range slices.Sorted(maps.Keys(r.Refused)) {
		s += fmt.Sprintf(", %d × %s", r.Refused[code], code)
	}
	return s
}

// Latency is percentiles of one measured time.
type Latency struct{ P50, P99, Max time.Duration }

// maxLost is how many connections may break in one run before it is given up:
// a server that is gone should end a measurement, not become part of it.
const maxLost = 100

// Run sends the load and returns when all of it was answered. A refused message
// is counted and not sent again. It fails only if the server cannot be reached,
// breaks more than a hundred connections, or ctx ends; the result then tells what
// was seen until then.
func Run(ctx context.Context, l Load) (Result, error) {
	if l.Timeout == 0 {
		l.Timeout = 2 * time.Minute
	}
	run := &run{load: l}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start := time.Now()
	workers := make([]*worker, l.Sessions)
	var wg sync.WaitGroup
	for i := range workers {
		workers[i] = &worker{run: run, refused: map[string]int{}}
		wg.Go(func() {
			if err := workers[i].work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	result := collect(workers)
	result.Elapsed = time.Since(start)
	return result, context.Cause(ctx)
}

func collect(workers []*worker) Result {
	r := Result{Refused: map[string]int{}}
	var dot, whole []time.Duration
	for _, w := range workers {
		r.Accepted += len(w.whole)
		r.Bytes += w.bytes
		dot, whole = append(dot, w.dot...), append(whole, w.whole...)
		for code, n := range w.refused {
			r.Refused[code] += n
		}
	}
	r.Dot, r.Whole = Percentiles(dot), Percentiles(whole)
	return r
}

// Percentiles sorts the times and returns their percentiles.
func Percentiles(times []time.Duration) Latency {
	if len(times) == 0 {
		return Latency{}
	}
	slices.Sort(times)
	at := func(p float64) time.Duration { return times[int(p*float64(len(times)-1))] }
	return Latency{P50: at(0.50), P99: at(0.99), Max: at(1)}
}

// run is what the workers of one Run share.
type run struct {
	load Load
	next atomic.Int64
	lost atomic.Int64
}

// A worker is one session after another.
type worker struct {
	*run
	dot, whole []time.Duration
	bytes      int64
	refused    map[string]int
}

// work sends messages until none is left.
func (w *worker) work(ctx context.Context) error {
	for {
		done, err := w.connection(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case done:
			return nil
		case err != nil && w.lost.Add(1) > maxLost:
			return fmt.Errorf("too many broken connections, the last one: %w", err)
		case err != nil:
			w.refused["lost"]++
		}
	}
}

// connection sends messages over one connection. It returns done when there are
// no more to send, and an error when the connection broke; the message that was
// on its way then is not sent again.
func (w *worker) connection(ctx context.Context) (done bool, err error) {
	if int(w.next.Load()) >= w.load.Count {
		return true, nil
	}
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", w.load.Addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s := &session{conn: conn, r: bufio.NewReaderSize(conn, 4096), timeout: w.load.Timeout}
	if err := s.greet(); err != nil {
		return false, err
	}
	for sent := 0; w.load.PerConn == 0 || sent < w.load.PerConn; sent++ {
		n := int(w.next.Add(1)) - 1
		if n >= w.load.Count {
			return true, s.quit()
		}
		m := &w.load.Messages[n%len(w.load.Messages)]
		start := time.Now()
		dot, err := s.send(m, "Message-ID: "+MessageID(w.load.Tag, n)+"\r\n")
		if reply, ok := errors.AsType[*replyError](err); ok {
			w.refused[reply.code]++
			continue
		}
		if err != nil {
			return false, err
		}
		w.whole = append(w.whole, time.Since(start))
		w.dot = append(w.dot, dot)
		w.bytes += int64(m.Size)
	}
	return false, s.quit()
}

// replyError is a refusal; the session goes on after it.
type replyError struct{ code, text string }

func (e *replyError) Error() string { return "refused: " + e.text }

// session is one SMTP connection from the sender's side.
type session struct {
	conn     net.Conn
	r        *bufio.Reader
	timeout  time.Duration
	pipeline bool
}

func (s *session) greet() error {
	s.conn.SetDeadline(time.Now().Add(s.timeout))
	if _, err := s.reply('2'); err != nil {
		return fmt.Errorf("banner: %w", err)
	}
	if _, err := s.conn.Write([]byte("EHLO loadgen.example\r\n")); err != nil {
		return err
	}
	text, err := s.reply('2')
	s.pipeline = strings.Contains(strings.ToUpper(text), "PIPELINING")
	return err
}

// send sends one message and returns the time from the final dot to its answer.
func (s *session) send(m *Message, id string) (time.Duration, error) {
	s.conn.SetDeadline(time.Now().Add(s.timeout))
	commands := []string{fmt.Sprintf("MAIL FROM:<%s> SIZE=%d\r\n", m.From, m.Size+len(id))}
	for _, to := range m.To {
		commands = append(commands, "RCPT TO:<"+to+">\r\n")
	}
	if err := s.envelope(append(commands, "DATA\r\n")); err != nil {
		return 0, err
	}
	body := net.Buffers{[]byte(id), m.Wire}
	if _, err := body.WriteTo(s.conn); err != nil {
		return 0, err
	}
	dot := time.Now()
	_, err := s.reply('2')
	return time.Since(dot), err
}

// envelope sends the commands up to DATA, all at once if the server lets us.
// RFC 2920 §3.1
func (s *session) envelope(commands []string) error {
	if s.pipeline {
		if _, err := s.conn.Write([]byte(strings.Join(commands, ""))); err != nil {
			return err
		}
	}
	var refusal error
	for i, c := range commands {
		if !s.pipeline {
			if _, err := s.conn.Write([]byte(c)); err != nil {
				return err
			}
		}
		want := byte('2')
		if i == len(commands)-1 {
			want = '3'
		}
		_, err := s.reply(want)
		if _, refused := errors.AsType[*replyError](err); err != nil && !refused {
			return err
		}
		if refusal == nil {
			refusal = err
		}
		if err == nil && want == '3' && refusal != nil {
			// A recipient was refused but DATA was not: an empty message would be
			// sent to the others. Leave instead. RFC 2920 §3.1
			return errors.New("DATA went through although a recipient was refused")
		}
		if err != nil && !s.pipeline {
			break
		}
	}
	if refusal == nil {
		return nil
	}
	if _, err := s.conn.Write([]byte("RSET\r\n")); err != nil {
		return err
	}
	if _, err := s.reply('2'); err != nil {
		return err
	}
	return refusal
}

func (s *session) quit() error {
	_, err := s.conn.Write([]byte("QUIT\r\n"))
	if err == nil {
		_, err = s.reply('2')
	}
	return err
}

// reply reads one reply, of several lines perhaps, and fails with a replyError
// if it does not begin with the digit wanted. RFC 5321 §4.2.1
func (s *session) reply(want byte) (string, error) {
	var text strings.Builder
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if len(line) < 5 {
			return "", errors.New("reply too short")
		}
		text.WriteString(line)
		if line[3] == ' ' {
			if line[0] != want {
				return "", &replyError{code: line[:3], text: strings.TrimSpace(line)}
			}
			return text.String(), nil
		}
	}
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
