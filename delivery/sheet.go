package delivery

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"holdfast/event"
	"holdfast/projection"
)

// Sheet is the balance sheet of all mail: what was accepted, and where it is.
//
// A *unit* is one message due to one recipient. It is entered on the day (UTC)
// of the segment that holds its acceptance, for the domain whose route carries
// it, and stays entered there whatever becomes of it. In every line
//
//	Accepted = Delivered + Due + Held + Bounced + Expired + Erased
//
// The sides come from different places. Accepted is counted from acceptances,
// Delivered, Bounced and Expired from the outcomes that ended units, each when
// it is folded; of a unit that has come to its end a second outcome counts only
// when two workers were at it, and then the unit is Uncertain. Due and Held are
// counted from the entries of the queue by which workers find their work, one by
// one, whenever a sheet is made. So an entry that was lost, doubled or left behind
// shows as a Difference.
//
//   - Accepted leaves out what was repudiated: a unit whose sender was told 451
//     although the message landed, and which had not come to an end when the log
//     took it back. Those are in Repudiated. One that was delivered before that
//     counts as accepted and delivered, because it was.
//   - Notices, of the Accepted, are bounces that were made here.
//   - Uncertain, of the Delivered, may have arrived twice.
//   - Erased is by order. A unit that had come to its end before stays there.
//   - Mail of a domain without a primary is Due until it expires. Other mail that is
//     due or held does not expire.
//   - What users append over IMAP was not accepted for anybody: it is on no line.
//
// Of days that are more than 100 before the newest in which all units have come to
// their end there is one line, of the last of them.
//
// A redelivery changes nothing in the line of the message: what was delivered,
// bounced or expired stays so. The units that an order makes have lines of their
// own (Again), by the day of the order, with the same equation, where Accepted is
// what was ordered. An order for a unit that is due makes none; one for a unit
// that is held goes on with that unit, which stays in its first line.
type Sheet struct {
	// Lines are sorted by domain, direction, Again and day.
	Lines []Line
	// Strays is how many more entries the queue has than units are known, or fewer,
	// with those that stand in another's place.
	Strays int64
}

// Line is one line of a [Sheet].
type Line struct {
	Domain   string
	Outbound bool // through the domain's smart host
	Again    bool // units of redelivery orders
	Day      event.Day
	Numbers
}

// Numbers are numbers of units.
type Numbers struct {
	Accepted, Delivered, Due, Held, Bounced, Expired, Erased int64

	Notices, Uncertain, Repudiated int64
}

// Difference is what is missing on the right side of the equation, 0 when it
// holds.
func (n Numbers) Difference() int64 {
	return n.Accepted - (n.Delivered + n.Due + n.Held + n.Bounced + n.Expired + n.Erased)
}

// Add adds the numbers of m.
func (n *Numbers) Add(m Numbers) {
	n.Accepted += m.Accepted
	n.Delivered += m.Delivered
	n.Due += m.Due
	n.Held += m.Held
	n.Bounced += m.Bounced
	n.Expired += m.Expired
	n.Erased += m.Erased
	n.Notices += m.Notices
	n.Uncertain += m.Uncertain
	n.Repudiated += m.Repudiated
}

// Balanced reports that the equation holds in every line and there is no stray.
func (s *Sheet) Balanced() bool {
	for i := range s.Lines {
		if s.Lines[i].Difference() != 0 {
			return false
		}
	}
	return s.Strays == 0
}

// ReadSheet makes the sheet of all that runner has folded, at one point of the
// log. It takes time in proportion to the queue: about a second for a million
// units. The delivery projection must have been added to the runner.
func ReadSheet(ctx context.Context, runner *projection.Runner) (*Sheet, error) {
	c := &sheetMaker{lines: map[lineKey]*Numbers{}}
	err := runner.View(ctx, foldName, func(v projection.View) error {
		if err := c.accounts(v); err != nil {
			return err
		}
		for _, kind := range []byte{keyFresh, keyRetry, keyPark, keyEnded} {
			if err := c.entries(ctx, v, kind); err != nil {
				return err
			}
		}
		units, err := c.rows(ctx, v)
		c.strays += max(units-c.seen, c.seen-units)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("balance sheet: %w", err)
	}
	s := &Sheet{Strays: c.strays}
	for k, n := range c.lines {
		domain := k.route[2:] // routes have a letter and a slash
		s.Lines = append(s.Lines, Line{
			Domain: domain, Outbound: strings.HasPrefix(k.route, outboundRoute("")), Again: k.again, Day: k.day, Numbers: *n,
		})
	}
	slices.SortFunc(s.Lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(a.Domain, b.Domain), compareBool(a.Outbound, b.Outbound), compareBool(a.Again, b.Again), cmp.Compare(a.Day, b.Day))
	})
	return s, nil
}

// Sheet makes the balance sheet of this node, see [ReadSheet].
func (s *Service) Sheet(ctx context.Context) (*Sheet, error) { return ReadSheet(ctx, s.cfg.Runner) }

type lineKey struct {
	route string
	day   event.Day
	again bool
}

type sheetMaker struct {
	lines  map[lineKey]*Numbers
	seen   int64 // entries
	strays int64
}

func (c *sheetMaker) line(k lineKey) *Numbers {
	n := c.lines[k]
	if n == nil {
		n = &Numbers{}
		c.lines[k] = n
	}
	return n
}

// accounts enters what the ledger counted.
func (c *sheetMaker) accounts(v projection.View) error {
	for it, err := range v.Scan([]byte{keyAccount}, nil, false) {
		if err != nil {
			return err
		}
		route, day, again, err := parseAccountKey(it.Key)
		if err != nil {
			return err
		}
		var a account
		if err := event.Unmarshal(it.Value, &a); err != nil {
			return err
		}
		if day == 0 {
			day = a.Through
		}
		c.line(lineKey{route, day, again}).Add(Numbers{
			Accepted: int64(a.Accepted) - int64(a.Repudiated), Repudiated: int64(a.Repudiated), Notices: int64(a.Notices),
			Delivered: int64(a.Delivered), Uncertain: int64(a.Uncertain), Bounced: int64(a.Bounced), Expired: int64(a.Expired), Erased: int64(a.Erased),
		})
	}
	return nil
}

// entries enters what stands in one kind of queue, of all routes.
func (c *sheetMaker) entries(ctx context.Context, v projection.View, kind byte) error {
	for it, err := range v.Scan([]byte{kind}, nil, false) {
		if err != nil {
			return err
		}
		if c.seen++; c.seen%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		day, again, err := parseEntry(it.Value)
		if err != nil {
			return err
		}
		if !bytes.HasSuffix(it.Key, it.Value[:unitLen]) {
			c.strays++ // it stands in another's place
			continue
		}
		const fixed = 1 + 16 + 1
		if len(it.Key) < fixed || len(it.Key) < fixed+int(it.Key[fixed-1]) {
			return fmt.Errorf("queue key of %d bytes: %w", len(it.Key), event.ErrMalformed)
		}
		if kind == keyEnded {
			continue
		}
		n := c.line(lineKey{string(it.Key[fixed : fixed+int(it.Key[fixed-1])]), day, again})
		if kind == keyPark {
			n.Held++
		} else {
			n.Due++
		}
	}
	return nil
}

// rows counts the units that are known.
func (c *sheetMaker) rows(ctx context.Context, v projection.View) (n int64, err error) {
	for _, err := range v.Scan([]byte{keyUnit}, nil, false) {
		if err != nil {
			return 0, err
		}
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	return n, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
