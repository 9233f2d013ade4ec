package main

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

// imapTalk is one IMAP connection of the demo's users. It knows just enough of
// the protocol to say what it is told and to hand back what comes, and is used
// by one goroutine at a time.
type imapTalk struct {
	conn net.Conn
	r    *bufio.Reader
	last int // the number of the last tag
}

// imapLine is one untagged response, its literals taken out.
type imapLine struct {
	text     string
	literals [][]byte
}

// imapRefusal is a NO or BAD.
type imapRefusal struct{ text string }

func (e *imapRefusal) Error() string { return "the server answered " + e.text }

// imapPatience bounds each command.
const imapPatience = 15 * time.Second

// maxLiteral bounds what the demo takes as one literal; its messages are small.
const maxLiteral = 1 << 20

// dialIMAP connects and logs in. A refused login is an [imapRefusal].
func dialIMAP(ctx context.Context, addr, user, password string) (*imapTalk, error) {
	conn, err := (&net.Dialer{Timeout: imapPatience}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	t := &imapTalk{conn: conn, r: bufio.NewReader(conn)}
	if err := t.greeted(); err != nil {
		conn.Close()
		return nil, err
	}
	if _, err := t.do("LOGIN %q %q", user, password); err != nil {
		conn.Close()
		return nil, err
	}
	return t, nil
}

func (t *imapTalk) greeted() error {
	if err := t.conn.SetDeadline(time.Now().Add(imapPatience)); err != nil {
		return err
	}
	l, err := t.line()
	if err != nil {
		return err
	}
	if !strings.HasPrefix(l.text, "* OK") {
		return fmt.Errorf("the IMAP server greets with %q", l.text)
	}
	return nil
}

// close ends the connection without a goodbye. It may be called on nil.
func (t *imapTalk) close() {
	if t != nil {
		t.conn.Close()
	}
}

// send writes a command and returns its tag.
func (t *imapTalk) send(format string, args ...any) (string, error) {
	t.last++
	tag := "d" + strconv.Itoa(t.last)
	if err := t.conn.SetDeadline(time.Now().Add(imapPatience)); err != nil {
		return "", err
	}
	_, err := fmt.Fprintf(t.conn, "%s %s\r\n", tag, fmt.Sprintf(format, args...))
	return tag, err
}

// do runs a command and returns the untagged responses that came before its
// answer, or an [imapRefusal].
func (t *imapTalk) do(format string, args ...any) ([]imapLine, error) {
	tag, err := t.send(format, args...)
	if err != nil {
		return nil, err
	}
	return t.answer(tag)
}

// answer reads up to the tagged response.
func (t *imapTalk) answer(tag string) (lines []imapLine, err error) {
	for {
		l, err := t.line()
		if err != nil {
			return lines, err
		}
		rest, tagged := strings.CutPrefix(l.text, tag+" ")
		if !tagged {
			lines = append(lines, l)
			continue
		}
		if !strings.HasPrefix(rest, "OK") {
			return lines, &imapRefusal{rest}
		}
		return append(lines, imapLine{text: rest}), nil
	}
}

// idle enters IDLE and returns once the server waits with it (RFC 2177).
func (t *imapTalk) idle() (tag string, err error) {
	if tag, err = t.send("IDLE"); err != nil {
		return "", err
	}
	l, err := t.line()
	if err == nil && !strings.HasPrefix(l.text, "+") {
		err = fmt.Errorf("IDLE is answered with %q", l.text)
	}
	return tag, err
}

// pushed waits in IDLE for a response that contains what, then leaves IDLE.
func (t *imapTalk) pushed(tag, what string) error {
	for {
		l, err := t.line()
		if err != nil {
			return fmt.Errorf("no %s while idle: %w", what, err)
		}
		if strings.Contains(l.text, what) {
			break
		}
	}
	if _, err := io.WriteString(t.conn, "DONE\r\n"); err != nil {
		return err
	}
	_, err := t.answer(tag)
	return err
}

// line reads one response with its literals (RFC 9051 §4.3).
func (t *imapTalk) line() (l imapLine, err error) {
	for {
		s, err := t.r.ReadString('\n')
		if err != nil {
			return l, err
		}
		l.text += strings.TrimSuffix(s, "\r\n")
		open := strings.LastIndexByte(l.text, '{')
		if open < 0 || !strings.HasSuffix(l.text, "}") {
			return l, nil
		}
		n, err := strconv.Atoi(l.text[open+1 : len(l.text)-1])
		if err != nil {
			return l, nil // braces in a text, not a literal
		}
		if n > maxLiteral {
			return l, errors.New("the server sends a literal larger than anything that was put in")
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(t.r, b); err != nil {
			return l, err
		}
		l.literals = append(l.literals, b)
	}
}

// boxView is what a client sees of a mailbox.
type boxView struct {
	validity string // UIDVALIDITY
	messages []boxMessage
}

// boxMessage is one message of a view.
type boxMessage struct {
	uid   string
	flags string
	body  string
}

// find returns the message with the subject, and false if there is not exactly
// one.
func (v boxView) find(subject string) (found boxMessage, ok bool) {
	n := 0
	for _, m := range v.messages {
		if strings.Contains(m.body, "\r\nSubject: "+subject+"\r\n") {
			found, n = m, n+1
		}
	}
	return found, n == 1
}

// same says whether a client would notice a difference.
func (v boxView) same(w boxView) bool {
	if v.validity != w.validity || len(v.messages) != len(w.messages) {
		return false
	}
	for i := range v.messages {
		if v.messages[i] != w.messages[i] {
			return false
		}
	}
	return true
}

var (
	uidValidityRE = regexp.MustCompile(`\[UIDVALIDITY (\d+)\]`)
	fetchUIDRE    = regexp.MustCompile(`\bUID (\d+)`)
	fetchFlagsRE  = regexp.MustCompile(`FLAGS \(([^)]*)\)`)
)

// look selects a mailbox and reads all of it, without setting \Seen.
func (t *imapTalk) look(mailbox string) (v boxView, err error) {
	lines, err := t.do("SELECT %q", mailbox)
	if err != nil {
		return v, err
	}
	for _, l := range lines {
		if m := uidValidityRE.FindStringSubmatch(l.text); m != nil {
			v.validity = m[1]
		}
	}
	if v.validity == "" {
		return v, errors.New("SELECT gave no UIDVALIDITY")
	}
	lines, err = t.do("UID FETCH 1:* (FLAGS BODY.PEEK[])")
	if err != nil {
		return v, err
	}
	for _, l := range lines {
		uid, flags := fetchUIDRE.FindStringSubmatch(l.text), fetchFlagsRE.FindStringSubmatch(l.text)
		if uid == nil || flags == nil || len(l.literals) != 1 {
			continue
		}
		v.messages = append(v.messages, boxMessage{uid: uid[1], flags: withoutRecent(flags[1]), body: string(l.literals[0])})
	}
	return v, nil
}

// withoutRecent drops the flag that only says which session looked first.
func withoutRecent(flags string) string {
	var kept []string
	for f := range strings.FieldsSeq(flags) {
		if f != `\Recent` {
			kept = append(kept, f)
		}
	}
	return strings.Join(kept, " ")
}
