package outside

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Mailbox is one IMAP connection. It knows just enough of IMAP to say what it is
// told and hand back what comes, and is used by one goroutine.
type Mailbox struct {
	conn    net.Conn
	r       *bufio.Reader
	next    int
	Timeout time.Duration // for each command; a minute unless changed
}

// Line is one untagged response: its text with each literal replaced by its
// {length}, and the literals.
type Line struct {
	Text     string
	Literals [][]byte
}

// NoError is a NO or BAD answer.
type NoError struct{ Command, Text string }

func (e *NoError) Error() string { return e.Command + ": " + e.Text }

// DialIMAP connects and logs in.
func DialIMAP(ctx context.Context, addr, user, password string) (*Mailbox, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return OpenIMAP(conn, user, password, time.Minute)
}

// OpenIMAP logs in over a connection, which it closes when that fails. Every
// command, and the login as a whole, must be answered within timeout.
func OpenIMAP(conn net.Conn, user, password string, timeout time.Duration) (*Mailbox, error) {
	m := &Mailbox{conn: conn, r: bufio.NewReaderSize(conn, 64<<10), Timeout: timeout}
	conn.SetDeadline(time.Now().Add(m.Timeout))
	greeting, err := m.line()
	if err == nil && !strings.HasPrefix(greeting.Text, "* OK") {
		err = fmt.Errorf("greeting: %s", greeting.Text)
	}
	if err == nil {
		_, err = m.Do(fmt.Sprintf("LOGIN %q %q", user, password))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

// Close closes the connection without LOGOUT.
func (m *Mailbox) Close() error { return m.conn.Close() }

// Do sends one command and returns the untagged responses to it, or a NoError.
func (m *Mailbox) Do(command string) ([]Line, error) { return m.do(command, nil) }

// Append adds a message to a mailbox; flags as in "(\\Seen)".
func (m *Mailbox) Append(mailbox, flags string, message []byte) error {
	_, err := m.AppendUID(mailbox, flags, message)
	return err
}

// AppendUID is Append that returns the responses, of which the last has the
// message's UID (RFC 4315 §3).
func (m *Mailbox) AppendUID(mailbox, flags string, message []byte) ([]Line, error) {
	return m.do(fmt.Sprintf("APPEND %q %s {%d}", mailbox, flags, len(message)), message)
}

func (m *Mailbox) do(command string, literal []byte) ([]Line, error) {
	m.next++
	tag := "t" + strconv.Itoa(m.next)
	verb, _, _ := strings.Cut(command, " ")
	m.conn.SetDeadline(time.Now().Add(m.Timeout))
	if _, err := m.conn.Write([]byte(tag + " " + command + "\r\n")); err != nil {
		return nil, fmt.Errorf("%s: %w", verb, err)
	}
	var lines []Line
	for {
		line, err := m.line()
		if err != nil {
			return lines, fmt.Errorf("%s: %w", verb, err)
		}
		switch {
		case strings.HasPrefix(line.Text, "+") && literal != nil:
			if _, err := m.conn.Write(append(append([]byte{}, literal...), "\r\n"...)); err != nil {
				return lines, fmt.Errorf("%s: %w", verb, err)
			}
			literal = nil
		case strings.HasPrefix(line.Text, tag+" "):
			answer := line.Text[len(tag)+1:]
			if !strings.HasPrefix(answer, "OK") {
				return lines, &NoError{Command: verb, Text: answer}
			}
			return append(lines, Line{Text: answer}), nil
		default:
			lines = append(lines, line)
		}
	}
}

// Idle goes into IDLE, acts, and returns once a response satisfies the condition,
// or fails when none has in time. It leaves IDLE in either case. RFC 2177
func (m *Mailbox) Idle(within time.Duration, act func(), seen func(Line) bool) error {
	m.next++
	tag := "t" + strconv.Itoa(m.next)
	m.conn.SetDeadline(time.Now().Add(m.Timeout))
	if _, err := m.conn.Write([]byte(tag + " IDLE\r\n")); err != nil {
		return err
	}
	for {
		line, err := m.line()
		if err != nil {
			return err
		}
		if strings.HasPrefix(line.Text, "+") {
			break
		}
	}
	act()
	found := error(nil)
	m.conn.SetDeadline(time.Now().Add(within))
	for {
		line, err := m.line()
		if err != nil {
			found = fmt.Errorf("nothing seen within %v: %w", within, err)
			break
		}
		if seen(line) {
			break
		}
	}
	m.conn.SetDeadline(time.Now().Add(m.Timeout))
	if _, err := m.conn.Write([]byte("DONE\r\n")); err != nil {
		return errors.Join(found, err)
	}
	for {
		line, err := m.line()
		if err != nil || strings.HasPrefix(line.Text, tag+" OK") {
			return errors.Join(found, err)
		}
	}
}

var literalEnd = regexp.MustCompile(`\{(\d+)\}$`)

// line reads one response with its literals. RFC 9051 §4.3
func (m *Mailbox) line() (Line, error) {
	var l Line
	for {
		text, err := m.r.ReadString('\n')
		if err != nil {
			return l, err
		}
		l.Text += strings.TrimSuffix(text, "\r\n")
		match := literalEnd.FindStringSubmatch(l.Text)
		if match == nil {
			return l, nil
		}
		n, err := strconv.Atoi(match[1])
		if err != nil {
			return l, err
		}
		literal := make([]byte, n)
		if _, err := io.ReadFull(m.r, literal); err != nil {
			return l, err
		}
		l.Literals = append(l.Literals, literal)
	}
}

// View is what a client sees of a selected mailbox.
type View struct {
	UIDValidity uint32
	UIDNext     uint32
	Messages    map[uint32]Seen
}

// Seen is one message of a View.
type Seen struct {
	Flags string // as the server lists them, sorted
	Body  []byte // all of it; nil unless asked for
}

var (
	uidValidity = regexp.MustCompile(`\[UIDVALIDITY (\d+)\]`)
	uidNext     = regexp.MustCompile(`\[UIDNEXT (\d+)\]`)
	fetchUID    = regexp.MustCompile(`\bUID (\d+)`)
	fetchFlags  = regexp.MustCompile(`FLAGS \(([^)]*)\)`)
)

// Look selects a mailbox and reads the flags of all messages, and their bodies
// when asked for.
func (m *Mailbox) Look(mailbox string, bodies bool) (View, error) {
	v := View{Messages: map[uint32]Seen{}}
	lines, err := m.Do(fmt.Sprintf("SELECT %q", mailbox))
	if err != nil {
		return v, err
	}
	for _, l := range lines {
		if s := uidValidity.FindStringSubmatch(l.Text); s != nil {
			v.UIDValidity = number(s[1])
		}
		if s := uidNext.FindStringSubmatch(l.Text); s != nil {
			v.UIDNext = number(s[1])
		}
	}
	what := "(FLAGS)"
	if bodies {
		what = "(FLAGS BODY.PEEK[])"
	}
	lines, err = m.Do("UID FETCH 1:* " + what)
	if err != nil {
		return v, err
	}
	for _, l := range lines {
		uid, flags := fetchUID.FindStringSubmatch(l.Text), fetchFlags.FindStringSubmatch(l.Text)
		if !strings.Contains(l.Text, " FETCH (") || uid == nil || flags == nil {
			continue
		}
		seen := Seen{Flags: sortWords(strings.ReplaceAll(flags[1], `\Recent`, ""))}
		if bodies && len(l.Literals) > 0 {
			seen.Body = l.Literals[0]
		}
		v.Messages[number(uid[1])] = seen
	}
	return v, nil
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0 // No UID and no UIDVALIDITY is 0, so it shows.
	}
	return uint32(n)
}
