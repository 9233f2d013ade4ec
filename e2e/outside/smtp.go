package outside

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Sender is one SMTP connection from a sender's side. It sends exactly the bytes
// it is given and is used by one goroutine.
type Sender struct {
	conn    net.Conn
	r       *bufio.Reader
	Timeout time.Duration // for each answer; a minute unless changed
}

// ReplyError is an answer other than the one hoped for.
type ReplyError struct {
	During string
	Code   int
	Text   string // the whole reply
}

func (e *ReplyError) Error() string { return fmt.Sprintf("%s: %s", e.During, e.Text) }

// Code returns the SMTP code of an error, or 0 if it is not a reply.
func Code(err error) int {
	if reply, ok := errors.AsType[*ReplyError](err); ok {
		return reply.Code
	}
	return 0
}

// DialSMTP connects and says EHLO.
func DialSMTP(ctx context.Context, addr string) (*Sender, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return OpenSMTP(conn)
}

// OpenSMTP says EHLO over a connection, which it closes when that fails.
func OpenSMTP(conn net.Conn) (*Sender, error) {
	s := &Sender{conn: conn, r: bufio.NewReader(conn), Timeout: time.Minute}
	if _, err := s.answer("banner", '2'); err != nil {
		conn.Close()
		return nil, err
	}
	if _, err := s.Command("EHLO sender.example", '2'); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// Close closes the connection without saying goodbye.
func (s *Sender) Close() error { return s.conn.Close() }

// Quit says goodbye and closes the connection.
func (s *Sender) Quit() error {
	_, err := s.Command("QUIT", '2')
	return errors.Join(err, s.Close())
}

// Login authenticates with AUTH PLAIN. RFC 4954 §4
func (s *Sender) Login(user, password string) error {
	_, err := s.Command("AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)), '2')
	return err
}

// Send sends one message and returns the text of the answer to its final dot. A
// message without CRLF at its end gets one, as SMTP cannot say it otherwise.
func (s *Sender) Send(from string, to []string, message []byte) (string, error) {
	if _, err := s.Command("MAIL FROM:<"+from+">", '2'); err != nil {
		return "", err
	}
	for _, rcpt := range to {
		if _, err := s.Command("RCPT TO:<"+rcpt+">", '2'); err != nil {
			return "", err
		}
	}
	if _, err := s.Command("DATA", '3'); err != nil {
		return "", err
	}
	s.conn.SetDeadline(time.Now().Add(s.Timeout))
	if _, err := s.conn.Write(append(stuff(AsSent(message)), ".\r\n"...)); err != nil {
		return "", err
	}
	return s.answer("final dot", '2')
}

// Command sends one line and reads its answer, which must begin with the digit.
func (s *Sender) Command(line string, want byte) (string, error) {
	s.conn.SetDeadline(time.Now().Add(s.Timeout))
	if _, err := s.conn.Write([]byte(line + "\r\n")); err != nil {
		return "", err
	}
	verb, _, _ := strings.Cut(line, " ")
	return s.answer(verb, want)
}

func (s *Sender) answer(during string, want byte) (string, error) {
	s.conn.SetDeadline(time.Now().Add(s.Timeout))
	var text strings.Builder
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("%s: %w", during, err)
		}
		text.WriteString(line)
		if len(line) < 4 {
			return "", fmt.Errorf("%s: reply %q is too short", during, line)
		}
		if line[3] != '-' {
			break
		}
	}
	reply := strings.TrimSpace(text.String())
	if reply[0] != want {
		last := reply[strings.LastIndexByte(reply, '\n')+1:]
		code := int(last[0]-'0')*100 + int(last[1]-'0')*10 + int(last[2]-'0')
		return "", &ReplyError{During: during, Code: code, Text: reply}
	}
	return reply, nil
}

// SendOne sends one message over a connection of its own.
func SendOne(ctx context.Context, addr, from string, to []string, message []byte) (string, error) {
	s, err := DialSMTP(ctx, addr)
	if err != nil {
		return "", err
	}
	defer s.Close()
	reply, err := s.Send(from, to, message)
	if err != nil {
		return "", err
	}
	s.Quit() // The message is kept whatever becomes of the goodbye.
	return reply, nil
}

// AsSent is the message as SMTP carries it: closed by CRLF.
func AsSent(message []byte) []byte {
	if bytes.HasSuffix(message, []byte("\r\n")) {
		return message
	}
	return append(bytes.Clone(message), "\r\n"...)
}

// AsDelivered is the message as it may arrive: each bare CR and bare LF has
// become CRLF.
func AsDelivered(message []byte) []byte {
	message = AsSent(message)
	out := make([]byte, 0, len(message)+16)
	for i, c := range message {
		switch {
		case c == '\r' && (i+1 == len(message) || message[i+1] != '\n'):
			out = append(out, '\r', '\n')
		case c == '\n' && (i == 0 || message[i-1] != '\r'):
			out = append(out, '\r', '\n')
		default:
			out = append(out, c)
		}
	}
	return out
}

// stuff doubles the dots that begin a line; only CRLF begins one. RFC 5321 §4.5.2
func stuff(message []byte) []byte {
	out := bytes.ReplaceAll(message, []byte("\r\n."), []byte("\r\n.."))
	if len(out) > 0 && out[0] == '.' {
		out = append([]byte("."), out...)
	}
	return bytes.Clone(out)
}

// CutReceived takes the one Received field off the top of a message and says
// whether there was one. It ends with its date (RFC 5321 §4.4), also where the
// message itself begins with a space and seems to go on with it.
func CutReceived(message []byte) (rest []byte, ok bool) {
	if len(message) < 9 || !strings.EqualFold(string(message[:9]), "Received:") {
		return message, false
	}
	for i := 0; ; {
		end := bytes.Index(message[i:], []byte("\r\n"))
		if end < 0 {
			return message, false
		}
		line := message[i : i+end]
		i += end + 2
		if i >= len(message) || (message[i] != ' ' && message[i] != '\t') || bytes.HasSuffix(line, []byte(" +0000")) {
			return message[i:], true
		}
	}
}
