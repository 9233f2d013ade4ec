package conformance

import (
	"slices"
	"strings"
)

// choose finds the ending that the server has taken: the first whose replies, up
// to where we have to speak again, all came.
func (p *player) choose() error {
	if err := p.send(); err != nil {
		return err
	}
	left := make([]*ending, 0, len(p.c.endings))
	for i := range p.c.endings {
		left = append(left, &p.c.endings[i])
	}
	var seen []*event
	for i := 0; ; i++ {
		// An ending that has come to where we speak is chosen if none before
		// it asks for more.
		if i > 0 && (len(left) == 1 || !listens(left[0], i)) {
			p.take(left[0], seen)
			return nil
		}
		e, err := p.await(i, left)
		if err != nil {
			return err
		}
		seen = append(seen, e)
		var fit []*ending
		for _, l := range left {
			if !listens(l, i) || e.fits(l.steps[i]) {
				fit = append(fit, l)
			}
		}
		switch {
		case len(fit) > 0:
			left = fit
		case i == 0:
			var want []string
			for _, l := range left {
				want = append(want, strings.TrimSpace(l.steps[0].verb+" "+l.steps[0].arg))
			}
			return deviates("want one of %q, got %v", want, e)
		default:
			// The step that does not fit says so.
			p.take(left[0], seen)
			return nil
		}
	}
}

// take goes on with an ending, whose steps look at the events again.
func (p *player) take(e *ending, seen []*event) {
	p.ending = e
	if e.note != "" {
		p.notes = append(p.notes, e.note)
	}
	for _, s := range seen {
		if !s.silence {
			p.ahead = append(p.ahead, s)
		}
	}
}

// await is next, but for silence, which is an event here. It is waited for only
// shortly where an ending might go on with it.
func (p *player) await(i int, left []*ending) (*event, error) {
	short := slices.ContainsFunc(left, func(l *ending) bool { return !listens(l, i) || l.steps[i].verb == "quiet" })
	if !short {
		return p.next()
	}
	whole := p.timeout
	p.timeout /= 10
	defer func() { p.timeout = whole }()
	e, err := p.next()
	if err == errSilence {
		return &event{silence: true}, nil
	}
	return e, err
}

// listens says whether a step waits for the server.
func listens(e *ending, i int) bool {
	return i < len(e.steps) && waits(e.steps[i])
}

func waits(s step) bool { return s.verb == "<" || s.verb == "eof" || s.verb == "quiet" }
