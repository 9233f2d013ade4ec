package imapgw

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// framer stands between the protocol library and the connection, above TLS, and
// keeps the two in step about where a command ends. The library stops reading a
// command at the first thing it does not like and takes the next line for a
// command; when a literal without synchronisation (RFC 7888) is on its way then,
// that is the text of somebody's mail. So the library gets whole lines, and
// literals only as long as it has not answered the command that they belong to.
// What is left of a command that was answered is passed over.
//
// It also speaks what comes before TLS (RFC 9051 §6.2.1), since the library would
// put TLS above it.
//
// Read is called by one goroutine, Write by several.
type framer struct {
	nc    *conn
	srv   *Server
	br    *bufio.Reader // of lower
	line  []byte        // the rest of a line that the library has not read yet
	size  int           // of the command so far, without literals
	owed  bool          // the line before announced a literal, and so the command goes on
	left  int64         // of that literal, in bytes
	async bool          // it comes without being asked for
	ended bool          // nothing more is read

	mu      sync.Mutex
	lower   net.Conn // nc, or TLS above it
	gate    bool     // TLS is possible, and not yet there
	greeted bool
	tag     string // of the command that is being read
	going   bool   // it has not all been read, nor been answered
	asked   bool   // the client was told to go on with it
	fresh   bool   // what is written next begins a line
}

const (
	// maxCommandLine bounds a command without its literals, in bytes. It is
	// below the library's bound, behind which that would lose its place. RFC 7162
	// §4 asks for 8,192.
	maxCommandLine = 48 << 10
	// maxArgument is what the library takes as a literal that is no message. Of a
	// longer one it would read the beginning as if it were part of the line.
	maxArgument = 4096
	// maxPassedOver is what is read of a literal that nobody wants.
	maxPassedOver = 256 << 20
	frameBuffer   = 2048
)

var errFraming = errors.New("a command that cannot be told from what follows it")

func newFramer(srv *Server, nc *conn, lower net.Conn, gate bool) *framer {
	return &framer{nc: nc, srv: srv, lower: lower, gate: gate, fresh: true, br: bufio.NewReaderSize(lower, frameBuffer)}
}

// Read gives the library the next piece of a line or of a literal.
func (f *framer) Read(p []byte) (int, error) {
	for {
		switch {
		case f.ended:
			return 0, io.EOF
		case len(f.line) > 0:
			n := copy(p, f.line)
			f.line = f.line[n:]
			return n, nil
		case f.left > 0 && f.wanted():
			n, err := f.br.Read(p[:min(int64(len(p)), f.left)])
			f.left -= int64(n)
			return n, err
		}
		if err := f.next(); err != nil {
			return 0, err
		}
	}
}

// wanted reports whether the library still reads the command.
func (f *framer) wanted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.going
}

// next reads the next line that the library is to have. Where the command was
// answered before its end, the rest of it comes first, and goes.
func (f *framer) next() error {
	more := f.owed && f.wanted()
	if !more {
		if err := f.passOver(); err != nil {
			return err
		}
		f.size = 0
	}
	line, err := f.readLine()
	if err != nil {
		return err
	}
	if f.size += len(line); f.size > maxCommandLine {
		return f.bye("Command line too long")
	}
	f.left, f.async, f.owed = literalAtEnd(line)
	f.mu.Lock()
	f.going, f.asked = f.owed, false
	if !more {
		f.tag = word(line, 0)
	}
	gate, tag := f.gate && !more, f.tag
	f.mu.Unlock()
	if strings.Contains(tag, "+") {
		return f.bye("A tag has no plus sign") // RFC 9051 §9; its answer would look like a request to go on
	}
	message := !more && strings.EqualFold(word(line, 1), "APPEND") && !strings.HasPrefix(word(line, 2), "{")
	if f.owed && f.left > maxArgument && !message {
		if more {
			return f.bye("Literal too large")
		}
		_, err := f.Write([]byte(tag + " NO [TOOBIG] Literals are limited to 4096 bytes for this command\r\n"))
		return err
	}
	if gate {
		if answered, err := f.beforeTLS(line); answered || err != nil {
			return err
		}
	}
	f.line = line
	return nil
}

// passOver reads what is left of a command that was answered: the literal that
// it owes, the line behind it, and so on.
func (f *framer) passOver() error {
	f.mu.Lock()
	asked := f.asked
	f.mu.Unlock()
	// A literal that was to be asked for, and was not, does not come.
	for ; f.owed && (f.async || asked); asked = false {
		if f.left > maxPassedOver {
			return f.bye("Literal too large")
		}
		if _, err := io.CopyN(io.Discard, f.br, f.left); err != nil {
			return err
		}
		line, err := f.readLine()
		if err != nil {
			return err
		}
		f.left, f.async, f.owed = literalAtEnd(line)
	}
	f.owed, f.left = false, 0
	return nil
}

// readLine reads up to the end of a line, which is LF as it is for the library.
func (f *framer) readLine() ([]byte, error) {
	var line []byte
	for {
		piece, err := f.br.ReadSlice('\n')
		line = append(line, piece...)
		if len(line) > maxCommandLine {
			return nil, f.bye("Command line too long")
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
	if i := bytes.IndexByte(line, '\r'); i >= 0 && i != len(line)-2 {
		return nil, f.bye("A line ends with CR and LF")
	}
	return line, nil
}

// literalAtEnd reads the announcement of a literal at the end of a line (RFC 9051
// §4.3, RFC 7888).
func literalAtEnd(line []byte) (n int64, async, ok bool) {
	line, ok = bytes.CutSuffix(bytes.TrimRight(line, "\r\n "), []byte("}")) // the library lets a space follow
	if !ok {
		return 0, false, false
	}
	line, async = bytes.CutSuffix(line, []byte("+"))
	digits := line[bytes.LastIndexByte(line, '{')+1:]
	if len(digits) == len(line) || len(digits) == 0 {
		return 0, false, false
	}
	v, err := strconv.ParseInt(string(digits), 10, 64) // the largest there is when it is larger
	return v, async, v >= 0 && (err == nil || errors.Is(err, strconv.ErrRange))
}

// word returns the i-th word of a line.
func word(line []byte, i int) string {
	words := bytes.SplitN(bytes.TrimRight(line, "\r\n"), []byte(" "), i+2)
	if i >= len(words) {
		return ""
	}
	return string(words[i])
}

// bye ends the connection with a reason.
func (f *framer) bye(reason string) error {
	f.ended = true
	if _, err := f.Write([]byte("* BYE " + reason + "\r\n")); err != nil {
		return err
	}
	return errFraming
}

// Write passes on what the library says, and notes when it answers the command
// of which not all was read.
func (f *framer) Write(p []byte) (int, error) {
	f.mu.Lock()
	lower, n := f.lower, len(p)
	if !f.greeted {
		f.greeted = true
		if f.gate && bytes.HasPrefix(p, []byte("* OK ")) {
			p = []byte("* OK [CAPABILITY " + f.capabilities() + "] IMAP server ready\r\n")
		}
	}
	if f.going {
		f.heed(p)
	}
	if n > 0 {
		f.fresh = p[len(p)-1] == '\n'
	}
	f.mu.Unlock()
	if _, err := lower.Write(p); err != nil {
		return 0, err
	}
	return n, nil
}

// heed looks for an answer: a line with a tag, whichever it is, since IDLE takes
// whatever comes for its end. The library writes no literals while it reads a
// command. The caller holds mu.
func (f *framer) heed(p []byte) {
	for fresh := f.fresh; len(p) > 0; fresh = true {
		switch {
		case !fresh || p[0] == '*':
		case p[0] == '+':
			f.asked = true
		default:
			f.going = false
			return
		}
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			return
		}
		p = p[i+1:]
	}
}

// lowest returns what is below, TLS when there is.
func (f *framer) lowest() net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lower
}

// isTLS reports whether what is said is encrypted.
func (f *framer) isTLS() bool {
	_, ok := f.lowest().(*tls.Conn)
	return ok
}

// loggedIn says that the time before TLS is over, whether TLS came or not.
func (f *framer) loggedIn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gate = false
}

func (f *framer) capabilities() string {
	auth := "LOGINDISABLED"
	if f.srv.cfg.AllowPlaintextAuth {
		auth = "AUTH=PLAIN"
	}
	return "IMAP4rev2 IMAP4rev1 SASL-IR LITERAL- STARTTLS " + auth
}

// beforeTLS answers the commands that mean something else as long as there is no
// TLS. Others are the library's.
func (f *framer) beforeTLS(line []byte) (answered bool, err error) {
	tag := word(line, 0)
	reply := func(s string) (bool, error) {
		_, err := f.Write([]byte(s)) // which also notes that the command is answered
		return true, err
	}
	bare := word(line, 2) == ""
	switch name := strings.ToUpper(word(line, 1)); {
	case name == "CAPABILITY" && bare:
		return reply("* CAPABILITY " + f.capabilities() + "\r\n" + tag + " OK CAPABILITY completed\r\n")
	case (name == "LOGIN" || name == "AUTHENTICATE") && !f.srv.cfg.AllowPlaintextAuth:
		return reply(tag + " NO [PRIVACYREQUIRED] TLS is required to authenticate\r\n") // RFC 9051 §6.2.2
	case name == "STARTTLS" && bare:
		// What comes behind the command in the clear may be somebody else's.
		if f.br.Buffered() > 0 {
			return true, f.bye("Nothing may follow STARTTLS")
		}
		if _, err := reply(tag + " OK Begin TLS negotiation now\r\n"); err != nil {
			return true, err
		}
		return true, f.startTLS()
	}
	return false, nil
}

func (f *framer) startTLS() error {
	t := tls.Server(f.nc, f.srv.tlsConfig())
	if err := t.Handshake(); err != nil { // within the library's time for a command
		return err
	}
	f.br.Reset(t)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lower, f.gate = t, false
	return nil
}

// Close, the addresses and the deadlines are those of what is below.

// Close implements net.Conn.
func (f *framer) Close() error { return f.lowest().Close() }

// LocalAddr implements net.Conn.
func (f *framer) LocalAddr() net.Addr { return f.nc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (f *framer) RemoteAddr() net.Addr { return f.nc.RemoteAddr() }

// SetDeadline implements net.Conn.
func (f *framer) SetDeadline(t time.Time) error { return f.lowest().SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (f *framer) SetReadDeadline(t time.Time) error { return f.lowest().SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (f *framer) SetWriteDeadline(t time.Time) error { return f.lowest().SetWriteDeadline(t) }

// framing is a listener whose connections are framed.
type framing struct {
	net.Listener
	srv  *Server
	gate bool // TLS is possible, but does not come first
}

// Accept implements net.Listener.
func (l framing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	below := c
	if t, ok := c.(*tls.Conn); ok {
		below = t.NetConn()
	}
	return newFramer(l.srv, below.(*conn), c, l.gate), nil
}
