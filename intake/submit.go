package intake

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/message"
)

// submitted checks the header of a submitted message and adds what it lacks
// (RFC 6409 §8). The rest streams through untouched.
func (t *Tx) submitted(id event.ID, body io.Reader, now time.Time) (io.Reader, error) {
	first, rest, err := readHeader(body)
	if err != nil {
		return nil, err
	}
	header, _ := message.SplitHeader(first)
	if len(header) >= maxHeader && !message.InspectHeader(header).NoHeader {
		// Who sends it may stand in what was not read.
		return nil, fmt.Errorf("header is not over after %d bytes: %w", maxHeader, ErrSenderNotYours)
	}
	if !t.ownsHeader(header) {
		return nil, ErrSenderNotYours
	}
	whole := io.MultiReader(bytes.NewReader(first), rest)
	if v, _ := message.Field(header, "Message-ID"); message.NormaliseMessageID(v) == "" {
		t.own = &ownSum{h: sha256.New()}
		whole = io.TeeReader(whole, t.own)
	}
	missing := message.AddMissing(header, now.UTC(), id.String()+"@"+t.svc.cfg.Hostname)
	return io.MultiReader(bytes.NewReader(missing), whole), nil
}

// ownsHeader reports whether all whom a header names as its senders are the
// user. Some readers take a bare CR for the end of a line, so that a field could
// begin there; such a header is read both ways.
func (t *Tx) ownsHeader(header []byte) bool {
	readings := [][]byte{header}
	if lone := bytes.ReplaceAll(header, []byte("\r\n"), []byte("\n")); bytes.IndexByte(lone, '\r') >= 0 {
		readings = append(readings, bytes.ReplaceAll(lone, []byte("\r"), []byte("\n")))
	}
	for _, h := range readings {
		facts := message.InspectHeader(h)
		if facts.From > 0 && !t.owns(facts.FromAddresses) || facts.Sender > 0 && !t.owns(facts.SenderAddresses) {
			return false
		}
		for name, value := range message.HeaderFields(h) {
			if (strings.EqualFold(name, "From") || strings.EqualFold(name, "Sender")) && !t.ownsAngled(value) {
				return false
			}
		}
	}
	return true
}

// ownsAngled reports whether all that stands in angle brackets is the user's.
// In a broken field such as "a@b <c@d>" one reader takes the first address for
// the sender and another the second.
func (t *Tx) ownsAngled(value []byte) bool {
	comment, quoted, begin := 0, false, -1
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\':
			i++
		case c == '"' && comment == 0:
			quoted = !quoted && begin < 0
		case quoted:
		case c == '(' && begin < 0:
			comment++
		case c == ')' && comment > 0:
			comment--
		case comment > 0:
		case c == '<':
			begin = i + 1
		case c == '>' && begin >= 0:
			if a := strings.TrimSpace(string(value[begin:i])); a != "" && !t.env.Subject.Owns(a) {
				return false
			}
			begin = -1
		}
	}
	return true
}

// owns reports whether there are addresses and all are the user's.
func (t *Tx) owns(list []message.Address) bool {
	list = slices.DeleteFunc(list, func(a message.Address) bool { return a.IsGroupStart() || a.IsGroupEnd() })
	for _, a := range list {
		if !a.IsValid() || !t.env.Subject.Owns(a.Addr()) {
			return false
		}
	}
	return len(list) > 0
}

// readHeader reads until the header is surely whole: up to an empty line, the
// end, or the limit. It returns what it read and what is left to read.
func readHeader(body io.Reader) (first []byte, rest io.Reader, err error) {
	buf := make([]byte, 0, 4<<10)
	for len(buf) < maxHeader {
		buf = slices.Grow(buf, 4<<10)
		n, err := body.Read(buf[len(buf):cap(buf)])
		seen := max(0, len(buf)-3) // an empty line may be divided
		buf = buf[:len(buf)+n]
		// Not errors.Is: the error of a connection that broke may hold one, too.
		if err == io.EOF {
			return buf, bytes.NewReader(nil), nil
		}
		if err != nil {
			return nil, nil, err
		}
		if endsHeader(buf[seen:], seen == 0) {
			break
		}
	}
	return buf, body, nil
}

func endsHeader(b []byte, atStart bool) bool {
	if atStart && (bytes.HasPrefix(b, []byte("\r\n")) || bytes.HasPrefix(b, []byte("\n"))) {
		return true
	}
	return bytes.Contains(b, []byte("\n\r\n")) || bytes.Contains(b, []byte("\n\n"))
}

// ownSum is the SHA-256 of the bytes that the user sent, with a CRLF at the end
// if there is none.
type ownSum struct {
	h    hash.Hash
	last [2]byte
}

// Write implements io.Writer.
func (s *ownSum) Write(p []byte) (int, error) {
	s.h.Write(p)
	switch n := len(p); {
	case n >= 2:
		s.last = [2]byte(p[n-2:])
	case n == 1:
		s.last = [2]byte{s.last[1], p[0]}
	}
	return len(p), nil
}

func (s *ownSum) sum() [32]byte {
	if s.last != [2]byte{'\r', '\n'} {
		s.h.Write([]byte("\r\n"))
	}
	return [32]byte(s.h.Sum(nil))
}
