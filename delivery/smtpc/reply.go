package smtpc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// A reply line has at most 512 octets (RFC 5321 §4.5.3.1.5); real servers
	// write longer ones.
	maxReplyLine = 2048
	// No server known needs more than some thirty lines, for EHLO.
	maxReplyLines = 128
)

// Reply is an answer of a server.
type Reply struct {
	Code     int    // 200..599, or 0: no reply
	Enhanced string // "5.1.1" (RFC 2034), or "" if there was none
	// Text is one entry a line, without codes, in valid UTF-8 without control
	// characters. It may quote addresses and content.
	Text []string
}

// Positive says that the code is 2xx.
func (r Reply) Positive() bool { return r.Code/100 == 2 }

// Temporary says that the code is 4xx.
func (r Reply) Temporary() bool { return r.Code/100 == 4 }

// Permanent says that the code is 5xx.
func (r Reply) Permanent() bool { return r.Code/100 == 5 }

// String returns the reply on one line, text included: it is for receipts and
// notices, not for logs.
func (r Reply) String() string {
	if len(r.Text) == 0 {
		return r.codes()
	}
	return r.codes() + " " + strings.Join(r.Text, " ")
}

func (r Reply) codes() string {
	if r.Enhanced == "" {
		return fmt.Sprintf("%03d", r.Code)
	}
	return fmt.Sprintf("%03d %s", r.Code, r.Enhanced)
}

// readReply reads one reply of one or more lines. Lines may end in LF alone. A
// reply that breaks the grammar or a bound gives an error that wraps
// [ErrMalformedReply]; what follows on the connection is then meaningless.
func readReply(br *bufio.Reader) (Reply, error) {
	var r Reply
	for n := 0; ; n++ {
		if n == maxReplyLines {
			return Reply{}, fmt.Errorf("%w: more than %d lines", ErrMalformedReply, maxReplyLines)
		}
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) || err == nil && len(line) > maxReplyLine {
			return Reply{}, fmt.Errorf("%w: line of more than %d octets", ErrMalformedReply, maxReplyLine)
		}
		if err != nil {
			return Reply{}, err // A partial line is no reply.
		}
		code, more, text, err := parseReplyLine(line)
		if err != nil {
			return Reply{}, err
		}
		// RFC 5321 §4.2.1: the code is the same in all lines of a reply.
		if n > 0 && code != r.Code {
			return Reply{}, fmt.Errorf("%w: codes %d and %d in one", ErrMalformedReply, r.Code, code)
		}
		r.Code = code
		enhanced, rest := cutEnhanced(code, text)
		if n == 0 {
			r.Enhanced = enhanced
		}
		if enhanced != "" && enhanced == r.Enhanced {
			text = rest
		}
		r.Text = append(r.Text, text)
		if !more {
			return r, nil
		}
	}
}

// parseReplyLine splits a line of a reply (RFC 5321 §4.2).
func parseReplyLine(line []byte) (code int, more bool, text string, err error) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !isDigit(line[1]) || !isDigit(line[2]) {
		return 0, false, "", fmt.Errorf("%w: no code", ErrMalformedReply)
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, false, "", nil // RFC 5321 §4.2: the text may be missing, and the space with it.
	}
	switch line[3] {
	case ' ':
	case '-':
		more = true
	default:
		return 0, false, "", fmt.Errorf("%w: no space after the code", ErrMalformedReply)
	}
	return code, more, clean(line[4:]), nil
}

// cutEnhanced splits a status code (RFC 3463 §2) off the text. A code of
// another class than the reply's is text.
func cutEnhanced(code int, text string) (enhanced, rest string) {
	word, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || int(parts[0][0]-'0') != code/100 {
		return "", text
	}
	for _, p := range parts[1:] {
		if len(p) == 0 || len(p) > 3 || strings.ContainsFunc(p, func(r rune) bool { return r < '0' || r > '9' }) {
			return "", text
		}
	}
	return word, rest
}

// clean makes text fit to be kept and shown.
func clean(b []byte) string {
	s := strings.ToValidUTF8(string(b), "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }
