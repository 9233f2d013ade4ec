package conformance

import (
	"bytes"
	"embed"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

//go:embed conversations/*.smtp
var files embed.FS

// Level is what a conversation rests on.
type Level string

// The levels.
const (
	Must   Level = "must"
	Should Level = "should"
	Choice Level = "choice"
)

// Conversation is one of the suite. It is immutable.
type Conversation struct {
	File  string // without its ending
	Line  int
	Name  string
	Cite  string
	Level Level
	Needs []string
	Why   string

	steps   []step
	endings []ending // at least one
}

// ending is how a conversation may go on.
type ending struct {
	note  string // empty for the right one
	steps []step
	kept  []step // stored, kept, whole
}

// step is one line.
type step struct {
	line int
	verb string
	arg  string
}

// Group is the file of a conversation and its name: "smuggling/LF dot LF".
func (c *Conversation) Group() string { return c.File + "/" + c.Name }

// RFC is the number of the standard a conversation rests on first.
func (c *Conversation) RFC() int {
	f := strings.Fields(c.Cite)
	if len(f) < 2 || f[0] != "RFC" {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	return n
}

// Load returns the whole suite, in the order of the files.
func Load() ([]Conversation, error) {
	entries, err := files.ReadDir("conversations")
	if err != nil {
		return nil, err
	}
	var all []Conversation
	for _, e := range entries {
		text, err := files.ReadFile("conversations/" + e.Name())
		if err != nil {
			return nil, err
		}
		some, err := Parse(strings.TrimSuffix(e.Name(), path.Ext(e.Name())), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Parse reads the text of one file.
func Parse(file, text string) ([]Conversation, error) {
	var all []Conversation
	p := parser{file: file}
	for i, l := range strings.Split(text, "\n") {
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		if name, ok := strings.CutPrefix(l, "== "); ok {
			done, err := p.finish()
			if err != nil {
				return nil, err
			}
			all = append(all, done...)
			p.begin(name, i+1)
			continue
		}
		if p.name == "" {
			return nil, fmt.Errorf("%s:%d: no conversation yet", file, i+1)
		}
		verb, arg, _ := strings.Cut(l, " ")
		if verb == "|" {
			p.rows = append(p.rows, row{i + 1, strings.Split(arg, " | ")})
			continue
		}
		p.lines = append(p.lines, step{i + 1, verb, arg})
	}
	done, err := p.finish()
	return append(all, done...), err
}

// parser gathers the lines of one conversation.
type parser struct {
	file  string
	name  string
	line  int
	lines []step
	rows  []row
}

type row struct {
	line  int
	cells []string
}

func (p *parser) begin(name string, line int) {
	p.name, p.line, p.lines, p.rows = name, line, nil, nil
}

// finish returns the conversations that the lines gathered make.
func (p *parser) finish() ([]Conversation, error) {
	if p.name == "" {
		return nil, nil
	}
	if len(p.rows) == 0 {
		c, err := p.build(p.line, p.name, func(s string) string { return s })
		return []Conversation{c}, err
	}
	var all []Conversation
	for _, r := range p.rows {
		fill := func(s string) string {
			for i := len(r.cells); i > 0; i-- {
				s = strings.ReplaceAll(s, "$"+strconv.Itoa(i), r.cells[i-1])
			}
			return s
		}
		c, err := p.build(r.line, fill(p.name), fill)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// build makes one conversation.
func (p *parser) build(line int, name string, fill func(string) string) (Conversation, error) {
	c := Conversation{File: p.file, Line: line, Name: name}
	bad := func(s step, why string) (Conversation, error) {
		return c, fmt.Errorf("%s:%d: %s: %q", p.file, s.line, why, s.verb+" "+s.arg)
	}
	var kept []step
	for _, s := range p.lines {
		s.arg = fill(s.arg)
		last := len(c.endings) - 1
		switch s.verb {
		case "cite":
			c.Cite = s.arg
		case "must", "should", "choice":
			c.Level = Level(s.verb)
		case "needs":
			c.Needs = append(c.Needs, strings.Fields(s.arg)...)
		case "why":
			c.Why = s.arg
		case "either":
			if last >= 0 {
				return bad(s, "second choice of endings")
			}
			c.endings = append(c.endings, ending{})
		case "or":
			if last < 0 || s.arg == "" {
				return bad(s, "not after either, or without a note")
			}
			c.endings = append(c.endings, ending{note: s.arg})
		case "stored", "kept", "whole":
			if last < 0 {
				kept = append(kept, s)
			} else {
				c.endings[last].kept = append(c.endings[last].kept, s)
			}
		default:
			steps, ok := expand(s)
			switch {
			case !ok:
				return bad(s, "unknown step")
			case last < 0:
				c.steps = append(c.steps, steps...)
			default:
				c.endings[last].steps = append(c.endings[last].steps, steps...)
			}
		}
	}
	if len(c.endings) == 0 {
		c.endings = []ending{{}}
	}
	for i := range c.endings {
		e := &c.endings[i]
		if len(e.kept) == 0 {
			e.kept = kept
		}
		if len(c.endings) > 1 && (len(e.steps) == 0 || !waits(e.steps[0])) {
			return c, fmt.Errorf("%s:%d: an ending begins with a reply, eof or quiet", p.file, line)
		}
	}
	if c.Level == "" || c.RFC() == 0 {
		return c, fmt.Errorf("%s:%d: no level, or no RFC cited", p.file, line)
	}
	return c, nil
}

// plain are the steps that stand for themselves.
var plain = []string{
	">", ">>", "chunk", "--", "drip", "<", "has", "hasnt", "enhanced", "quiet", "eof", "half", "drop", "close", "tls",
}

// macros are the steps that stand for others.
var macros = map[string][]string{
	"greet": {"< 220", "> EHLO {helo}", "< 250"},
	"mail":  {"greet", "> MAIL FROM:<{from}>", "< 250", "> RCPT TO:<{rcpt}>", "< 250"},
	"data":  {"mail", "> DATA", "< 354"},
	"header": {
		"> From: <{from}>", "> To: <{rcpt}>", "> Subject: {id}", "> Date: Thu, 01 Jan 2026 00:00:00 +0000",
		"> Message-ID: <{id}@sender.example>", "> ",
	},
	"message": {"data", "header"},
	"secure":  {"greet", "> STARTTLS", "< 220", "tls", "> EHLO {helo}", "< 250"},
	"login":   {"secure", "> AUTH PLAIN {plain}", "< 235"},
}

// expand replaces a step that stands for several.
func expand(s step) ([]step, bool) {
	if slices.Contains(plain, s.verb) {
		return []step{s}, true
	}
	lines, ok := macros[s.verb]
	if !ok || s.arg != "" {
		return nil, false
	}
	var out []step
	for _, l := range lines {
		verb, arg, _ := strings.Cut(l, " ")
		more, ok := expand(step{s.line, verb, arg})
		if !ok {
			return nil, false
		}
		out = append(out, more...)
	}
	return out, true
}

// unquote returns the octets of "go string" [count], and what follows the quote.
func unquote(arg string) (octets []byte, rest string, err error) {
	quoted, err := strconv.QuotedPrefix(arg)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", arg, err)
	}
	s, err := strconv.Unquote(quoted)
	return []byte(s), strings.TrimSpace(arg[len(quoted):]), err
}

// repeated returns the octets of "go string" [count] ["go string" [count]]…
func repeated(arg string) ([]byte, error) {
	var out []byte
	for {
		b, rest, err := unquote(arg)
		if err != nil {
			return nil, err
		}
		n := 1
		count, more, _ := strings.Cut(rest, " ")
		if count != "" && count[0] != '"' {
			if n, err = strconv.Atoi(count); err != nil {
				return nil, fmt.Errorf("%s: %w", arg, err)
			}
			rest = more
		}
		if out = append(out, bytes.Repeat(b, n)...); rest == "" {
			return out, nil
		}
		arg = rest
	}
}
