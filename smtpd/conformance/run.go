package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Verdict is what a conversation showed.
type Verdict string

// The verdicts.
const (
	Passes     Verdict = "passes"
	Differs    Verdict = "differs"     // does something else that the standard allows
	Fails      Verdict = "fails"       // does what it forbids
	NotOffered Verdict = "not offered" // has not got the extension, or the Target has not got what it needs
	Broken     Verdict = "broken"      // could not be held: no connection, say
)

// Result is what became of one conversation.
type Result struct {
	*Conversation
	Verdict Verdict
	Detail  string // what was done otherwise
	// Unseen says that something must have been kept, or must not, and that the
	// Target has no Keeper to tell.
	Unseen bool
}

// Options say how a suite is run.
type Options struct {
	Parallel int // conversations at one time; 16 if zero
	// Only chooses conversations; nil means all.
	Only func(*Conversation) bool
}

// Run holds the conversations with a server, many at a time, and returns their
// results in the same order. The error is one of the whole run: a Target that
// makes no sense, a server that cannot be reached, a Keeper that fails.
func Run(ctx context.Context, target Target, all []Conversation, o Options) ([]Result, error) {
	target, err := target.withDefaults()
	if err != nil {
		return nil, err
	}
	offers, err := target.probe(ctx)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if o.Parallel == 0 {
		o.Parallel = 16
	}
	r := runner{target: target, offers: offers, run: runID()}
	var held []*holding
	for i := range all {
		if o.Only == nil || o.Only(&all[i]) {
			held = append(held, &holding{c: &all[i], id: fmt.Sprintf("%sx%dz", r.run, i+1)})
		}
	}
	r.hold(ctx, held, o.Parallel)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var kept []Message
	if target.Kept != nil {
		if err := target.Kept.Settle(ctx); err != nil {
			return nil, fmt.Errorf("wait for what was kept: %w", err)
		}
		kept = target.Kept.Messages()
	}
	results := make([]Result, len(held))
	for i, h := range held {
		results[i] = h.result(target.Kept != nil, kept)
	}
	return results, nil
}

// runID is a word no earlier run has used.
func runID() string { return "q" + strconv.FormatUint(rand.Uint64()>>24, 36) }

// runner holds conversations.
type runner struct {
	target Target
	offers map[string]bool
	run    string
}

// holding is a conversation while it is held.
type holding struct {
	c       *Conversation
	id      string
	missing string
	player  *player
	err     error
}

func (r *runner) hold(ctx context.Context, all []*holding, parallel int) {
	var work sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, h := range all {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			r.one(ctx, h)
		})
	}
	work.Wait()
}

func (r *runner) one(ctx context.Context, h *holding) {
	for _, n := range h.c.Needs {
		if !r.offers[n] {
			h.missing = n
			return
		}
	}
	addr := r.target.Addr
	if slices.Contains(h.c.Needs, "submission") {
		addr = r.target.Submission
	}
	h.player = &player{c: h.c, words: r.target.words(h.id), timeout: r.target.Timeout}
	h.err = h.player.play(ctx, addr)
}

// result judges.
func (h *holding) result(seen bool, kept []Message) Result {
	r := Result{Conversation: h.c, Verdict: Passes}
	var d *deviation
	switch {
	case h.missing != "":
		r.Verdict, r.Detail = NotOffered, h.missing
		return r
	case errors.As(h.err, &d):
		r.Verdict, r.Detail = Differs, d.text
		if h.c.Level == Must {
			r.Verdict = Fails
		}
		return r
	case h.err != nil:
		r.Verdict, r.Detail = Broken, h.err.Error()
		return r
	}
	p := h.player
	if len(p.notes) > 0 {
		r.Verdict, r.Detail = Differs, strings.Join(p.notes, "; ")
	}
	if len(p.ending.kept) == 0 {
		return r
	}
	if !seen {
		r.Unseen = true
		return r
	}
	mine := of(h.id, kept)
	for _, s := range p.ending.kept {
		if why := checkKept(s, p.words, mine); why != "" {
			r.Verdict, r.Detail = Differs, strings.TrimPrefix(r.Detail+"; "+why, "; ")
			if h.c.Level == Must {
				r.Verdict = Fails
			}
			return r
		}
	}
	return r
}

// checkKept compares one statement with what was kept, and says what is wrong.
func checkKept(s step, words *strings.Replacer, kept []Message) string {
	if s.verb == "stored" {
		if n := strconv.Itoa(len(kept)); !slices.Contains(strings.Split(s.arg, ","), n) {
			return fmt.Sprintf("%s messages kept, want %s", n, s.arg)
		}
		return ""
	}
	want, err := repeated(s.arg)
	if err != nil {
		return err.Error()
	}
	if len(kept) == 0 {
		return "nothing kept"
	}
	got := kept[len(kept)-1].Body
	if s.verb == "kept" {
		got = afterHeader(got)
	}
	if want = []byte(words.Replace(string(want))); !bytes.Equal(got, want) {
		return fmt.Sprintf("kept %s, want %s", short(got), short(want))
	}
	return ""
}

// short quotes the beginning of something that may be long.
func short(b []byte) string {
	const most = 120
	if len(b) <= most {
		return strconv.Quote(string(b))
	}
	return fmt.Sprintf("%q… (%d octets)", b[:most], len(b))
}

// probe finds out what the server offers: the keywords of EHLO, in the clear and
// after STARTTLS, and what the Target has to have.
func (t Target) probe(ctx context.Context) (map[string]bool, error) {
	offers := map[string]bool{"unknown": t.Unknown != "", "submission": t.Submission != "" && t.User != ""}
	addrs := []string{t.Addr}
	if offers["submission"] {
		addrs = append(addrs, t.Submission)
	}
	for _, addr := range addrs {
		for _, macro := range []string{"greet", "secure"} {
			if macro == "secure" && !offers["STARTTLS"] {
				continue
			}
			steps, _ := expand(step{verb: macro})
			p := &player{c: &Conversation{steps: steps, endings: []ending{{}}}, words: t.words("probe"), timeout: t.Timeout}
			// What is wrong with the goodbye is for the conversations to say.
			if err := p.play(ctx, addr); err != nil && len(p.last) == 0 {
				return nil, fmt.Errorf("%s %s: %w", macro, addr, err)
			}
			for _, l := range p.last[1:] {
				f := strings.Fields(l[min(4, len(l)):])
				if len(f) > 0 {
					offers[strings.ToUpper(f[0])] = true
				}
			}
		}
	}
	return offers, nil
}
