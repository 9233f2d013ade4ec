package main

import (
	"flag"
	"strconv"
	"strings"
	"time"

	"holdfast/node"
)

// selectorFlags are the flags that choose messages.
type selectorFlags struct {
	rcpt, from, subject, messageID, state, since, until, after string
	limit                                                      int
}

func (s *selectorFlags) register(fs *flag.FlagSet) {
	s.registerMatch(fs)
	fs.StringVar(&s.state, "state", "", "`STATE` of a recipient: due, delivered, uncertain, held, bounced, expired, erased; or appended: what a user put into a mailbox")
	fs.StringVar(&s.after, "after", "", "go on after the message with this `ID`, the last one of the page before")
	fs.IntVar(&s.limit, "limit", 0, "at most this `NUMBER` of messages")
}

// registerMatch registers the flags by which a message matches or not, for ever.
func (s *selectorFlags) registerMatch(fs *flag.FlagSet) {
	fs.StringVar(&s.rcpt, "rcpt", "", "an envelope recipient's `ADDRESS`, or @DOMAIN")
	fs.StringVar(&s.from, "from", "", "the sender's `ADDRESS` in envelope or header, or @DOMAIN")
	fs.StringVar(&s.subject, "subject", "", "`WORDS` that all occur in the subject")
	fs.StringVar(&s.messageID, "message-id", "", "the `ID` in the Message-ID field, with or without <>")
	fs.StringVar(&s.since, "since", "", "received at or after this `TIME`: RFC 3339, or back from now as 2h or 3d")
	fs.StringVar(&s.until, "until", "", "received before this `TIME`")
}

// selectors returns what the flags and ids choose; now is what times are back
// from.
func (s *selectorFlags) selectors(ids []string, now time.Time) (node.Selectors, error) {
	out := node.Selectors{
		IDs: ids, Rcpt: s.rcpt, From: s.from, Subject: s.subject, MessageID: s.messageID, State: s.state, Limit: s.limit, After: s.after,
	}
	if s.limit < 0 {
		return out, usagef("--limit is a number of messages")
	}
	var err error
	if out.Since, err = parseTime("--since", s.since, now); err != nil {
		return out, err
	}
	out.Until, err = parseTime("--until", s.until, now)
	return out, err
}

// some reports whether anything was chosen.
func (s *selectorFlags) some() bool {
	t := *s
	t.limit, t.after = 0, ""
	return t != selectorFlags{}
}

// choice returns what a command that acts on messages acts on: ids or
// selectors, not both and not neither.
func (e *env) choice() (node.Selectors, error) {
	switch {
	case len(e.args) > 0 && e.choose.some():
		return node.Selectors{}, usagef("give message ids or selectors, not both")
	case len(e.args) == 0 && !e.choose.some():
		return node.Selectors{}, usagef("say which messages: ids, or selectors such as --rcpt ADDRESS --since 2h")
	}
	return e.selectors(e.args)
}

// selectors returns what the flags and ids choose, by the node's clock.
func (e *env) selectors(ids []string) (node.Selectors, error) {
	cfg, err := node.LoadConfig(e.config) // a test may have moved the clock
	if err != nil {
		return node.Selectors{}, err
	}
	return e.choose.selectors(ids, time.Now().Add(cfg.Shift))
}

// parseTime reads RFC 3339 or a duration back from now.
func parseTime(name, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n < 100_000 {
			return now.Add(-time.Duration(n * 24 * float64(time.Hour))), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, usagef("%s takes a time such as 2026-01-31T08:00:00Z, or one back from now such as 90m, 2h or 3d", name)
}
