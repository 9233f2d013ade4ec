package conformance

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
)

// Target is a server and what it takes.
type Target struct {
	Addr       string // host:port where it takes mail from anybody
	Submission string // host:port where users log in after STARTTLS; may be empty

	// Rcpt is a recipient the server takes mail for. A "*" in it is replaced by a
	// word of letters and digits that begins with a letter, so that each
	// conversation has recipients of its own.
	Rcpt    string
	Unknown string // a recipient in the same domain that does not exist; may be empty
	From    string // a sender; "sender@sender.example" if empty
	Relay   string // an address the server must not take mail for; "b@elsewhere.example" if empty
	Hello   string // our name; "client.example" if empty

	User, Password string // for Submission

	Kept Keeper // sees what the server has kept; may be nil

	Timeout time.Duration // for one reply; 10 s if zero
}

// Keeper sees what a server has kept.
type Keeper interface {
	// Settle waits until the server has handed over everything that it took.
	Settle(ctx context.Context) error
	// Messages returns what was kept, in the order in which it was.
	Messages() []Message
}

// Message is one that was kept.
type Message struct {
	From string   // without angle brackets
	To   []string // likewise
	Body []byte
}

func (t Target) withDefaults() (Target, error) {
	for _, d := range []struct {
		v *string
		s string
	}{{&t.From, "sender@sender.example"}, {&t.Relay, "b@elsewhere.example"}, {&t.Hello, "client.example"}} {
		if *d.v == "" {
			*d.v = d.s
		}
	}
	if t.Timeout == 0 {
		t.Timeout = 10 * time.Second
	}
	if at := strings.LastIndexByte(t.Rcpt, '@'); at < 1 || at == len(t.Rcpt)-1 {
		return t, fmt.Errorf("the recipient %q is no address", t.Rcpt)
	}
	return t, nil
}

// words returns what replaces the words in braces in the conversation with this
// id, which is part of every recipient if the Target allows that.
func (t Target) words(id string) *strings.Replacer {
	rcpt := strings.ReplaceAll(t.Rcpt, "*", id)
	local, domain, _ := strings.Cut(rcpt, "@")
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + t.User + "\x00" + t.Password))
	pairs := []string{
		"{id}", id, "{rcpt}", rcpt, "{local}", local, "{domain}", domain, "{from}", t.From, "{helo}", t.Hello,
		"{relay}", t.Relay, "{unknown}", t.Unknown, "{plain}", plain,
		"{user}", base64.StdEncoding.EncodeToString([]byte(t.User)),
		"{password}", base64.StdEncoding.EncodeToString([]byte(t.Password)),
	}
	for i := 2; i <= 100; i++ {
		pairs = append(pairs, fmt.Sprintf("{rcpt%d}", i), strings.ReplaceAll(t.Rcpt, "*", fmt.Sprintf("%sn%d", id, i)))
	}
	return strings.NewReplacer(pairs...)
}

// of returns the messages of one conversation: those that name its id. A message
// handed over once for each of its recipients counts once.
func of(id string, all []Message) []Message {
	var out []Message
	seen := map[string]bool{}
	for _, m := range all {
		if !strings.Contains(strings.Join(m.To, " ")+string(m.Body), id) {
			continue
		}
		key := m.From + "\n" + string(afterHeader(m.Body))
		if seen[key] {
			continue
		}
		seen[key] = true
		out = append(out, m)
	}
	return out
}

// afterHeader returns the body proper, because servers add to the header.
func afterHeader(b []byte) []byte {
	if i := strings.Index(string(b), "\r\n\r\n"); i >= 0 {
		return b[i+4:]
	}
	return b
}
