package judge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/open"
)

// verdict gathers what is wrong.
type verdict struct {
	rec    *Record
	wrong  []string
	found  ledger
	wishes wishes
}

func (v *verdict) complain(format string, args ...any) {
	v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
}

// ledger is what the log says.
type ledger struct {
	mail    []*letter                // in the order of the log
	byID    map[string]*letter       // by event id
	bySum   map[string][]*letter     // by digest of the bytes
	units   map[event.Unit]*delivery // of letters
	strange []string                 // facts about nothing

	begin  map[event.Partition]event.Seq // where the log begins, if not with its first segment
	orders map[event.ID]int              // how often each erasure that was ordered is certified
	erased map[event.ID]bool             // messages that are certified to be
}

// letter is one acceptance.
type letter struct {
	id         event.ID
	places     []event.Ref // where it may be read: where it was accepted, and its copies
	sum        string      // "" when nothing opens it
	err        error       // then: why
	partial    bool        // the log begins behind its acceptance
	rcpts      []string    // nil when nothing opens them
	units      int
	repudiated bool
}

// delivery is what the log says of one message for one recipient.
type delivery struct {
	intents   int
	results   []event.Result
	uncertain bool // the one that says delivered is marked
}

// Judge returns what is wrong with the world that the record describes; nothing if
// all promises were kept. An error means that it could not find out.
func Judge(ctx context.Context, rec *Record) ([]string, error) {
	v := &verdict{rec: rec}
	v.wishes = v.wished()
	log, bucket, done, err := v.open(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if log != nil {
		if err := v.checkVerify(ctx, log); err != nil {
			return nil, err
		}
		if v.found, err = read(ctx, log); err != nil {
			return nil, fmt.Errorf("read the log: %w", err)
		}
		if err := v.checkObjects(ctx, bucket); err != nil {
			return nil, err
		}
		for _, s := range v.found.strange {
			v.complain("%s", s)
		}
	}
	v.checkKept()
	v.checkOrders()
	v.checkOnce()
	v.checkDeliveries()
	v.checkViews()
	if rec.Drained && !rec.Balanced {
		v.complain("the node's books do not balance")
	}
	return v.wrong, nil
}

// open opens the log for inspection. A bucket without a log is one that was never
// used: then no promise was given either.
func (v *verdict) open(ctx context.Context) (*eventlog.Log, objstore.Bucket, func(), error) {
	env := func(name string) string { return v.rec.Config.Env[name] }
	bucket, closer, err := open.Open(ctx, v.rec.Config.URL, env)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open the bucket: %w", err)
	}
	exists, err := eventlog.Exists(ctx, bucket)
	if err != nil {
		closer.Close()
		return nil, nil, nil, fmt.Errorf("look for a log: %w", err)
	}
	if !exists {
		return nil, nil, func() { closer.Close() }, nil
	}
	root, err := crypto.LoadRoot(v.rec.Config.RootKey)
	if err != nil {
		closer.Close()
		if errors.Is(err, crypto.ErrNoRoot) {
			v.complain("there is a log, and the root key is lost")
			return nil, nil, func() {}, nil
		}
		return nil, nil, nil, err
	}
	log, err := eventlog.Open(ctx, eventlog.Options{Bucket: bucket, URL: v.rec.Config.URL, Keys: root, Inspect: true, Shift: v.rec.Config.Shift})
	if err != nil {
		closer.Close()
		v.complain("the log cannot be opened: %v", err)
		return nil, nil, func() {}, nil
	}
	return log, bucket, func() { log.Close(ctx); closer.Close() }, nil
}

// checkVerify: the log is whole.
func (v *verdict) checkVerify(ctx context.Context, log *eventlog.Log) error {
	_, err := log.Verify(ctx, func(f eventlog.Finding) { v.complain("log verify: %s", f) })
	return err
}

// read takes the facts out of the log and digests every body.
func read(ctx context.Context, log *eventlog.Log) (ledger, error) {
	l := ledger{
		byID: map[string]*letter{}, bySum: map[string][]*letter{}, units: map[event.Unit]*delivery{},
		begin: map[event.Partition]event.Seq{}, orders: map[event.ID]int{}, erased: map[event.ID]bool{},
	}
	for p := range log.Partitions() {
		from := log.Start(event.Partition(p))
		if from.Seq > 0 {
			l.begin[event.Partition(p)] = from.Seq
		}
		for seg, err := range log.Segments(ctx, event.Partition(p), from) {
			if err != nil {
				l.strange = append(l.strange, fmt.Sprintf("partition %d cannot be read to its end: %v", p, err))
				break
			}
			for _, r := range seg.Events {
				if err := l.take(r); err != nil {
					return l, err
				}
			}
		}
	}
	for _, m := range l.mail {
		for _, ref := range slices.Backward(m.places) {
			if m.sum, m.err = digest(ctx, log, ref); m.err == nil {
				l.bySum[m.sum] = append(l.bySum[m.sum], m)
				break
			}
		}
	}
	return l, nil
}

// letter notes an acceptance.
func (l *ledger) letter(id event.ID, f *event.MessageAccepted) *letter {
	m := &letter{id: id, units: int(f.Recipients)}
	if f.Meta != nil {
		for _, rcpt := range f.Meta.Recipients {
			m.rcpts = append(m.rcpts, rcpt.Path)
		}
	}
	for i := range m.units {
		l.units[event.Unit{Source: id, N: uint32(i)}] = &delivery{}
	}
	l.mail = append(l.mail, m)
	l.byID[id.String()] = m
	return m
}

func (l *ledger) take(r eventlog.Recorded) error {
	switch f := r.Fact.(type) {
	case *event.MessageAccepted:
		m := l.letter(r.Ref.ID, f)
		m.places = append(m.places, r.Ref)
	case *event.Repudiated:
		if m := l.byID[f.Message.String()]; m != nil {
			m.repudiated = true
		}
	case *event.DeliveryIntended:
		for _, u := range f.Units {
			if d := l.unit(r, u, "intent"); d != nil {
				d.intents++
			}
		}
	case *event.DeliverySettled:
		for _, o := range f.Outcomes {
			d := l.unit(r, o.Unit, "outcome")
			if d == nil {
				continue
			}
			d.results = append(d.results, o.Result)
			if o.Result == event.ResultDelivered {
				d.uncertain = o.Uncertain
			}
		}
	}
	return l.takeRetention(r)
}

func (l *ledger) unit(r eventlog.Recorded, u event.Unit, what string) *delivery {
	d := l.units[u]
	if d == nil && l.begin[r.Ref.Position.Partition] == 0 {
		l.strange = append(l.strange, fmt.Sprintf("%s about recipient %d of %v, which is no message before it in the log", what, u.N, u.Source))
	}
	return d
}

// digest reads a message's bytes.
func digest(ctx context.Context, log *eventlog.Log, ref event.Ref) (string, error) {
	body, err := log.Body(ctx, ref)
	if err != nil {
		return "", err
	}
	defer body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// checkKept: what got 250 is in the log under the id of the 250, byte for byte.
func (v *verdict) checkKept() {
	for _, s := range v.rec.Sent {
		switch s.Answer {
		case Wrong:
			v.complain("message %d was refused for good: %s", s.N, s.Reply)
		case Kept:
			if v.rec.Days {
				v.checkFate(&s)
				continue
			}
			m := v.found.byID[s.ID]
			switch {
			case m == nil:
				v.complain("message %d (run %d) got 250 as %s and is not in the log", s.N, s.Run, s.ID)
			case m.sum != s.SHA256:
				v.complain("message %d got 250 as %s, and the log has other bytes", s.N, s.ID)
			case m.repudiated:
				v.complain("message %d got 250 as %s and is repudiated", s.N, s.ID)
			}
		}
	}
}

// checkOnce: a transaction is in the log at most once, one that was refused not at
// all unless repudiated, and nothing is there that nobody sent.
func (v *verdict) checkOnce() {
	sent := map[string]bool{}
	for _, s := range v.rec.Sent {
		sent[s.SHA256] = true
		found := v.found.bySum[s.SHA256]
		if len(found) > 1 {
			v.complain("message %d was sent once and is in the log %d times", s.N, len(found))
		}
		for _, m := range found {
			if s.Answer == Refused && !m.repudiated && !v.rec.Pardon[s.Run] {
				v.complain("message %d (run %d) heard %q and is in the log as %v, not repudiated", s.N, s.Run, s.Reply, m.id)
			}
		}
	}
	for _, m := range v.found.mail {
		switch {
		case m.sum == "" && !v.rec.Days:
			v.complain("message %v cannot be read: %v", m.id, m.err)
		case m.sum != "" && !sent[m.sum]:
			v.complain("message %v in the log was sent by nobody", m.id)
		}
	}
}

// checkDeliveries: the primary has what was accepted, as it was sent; twice only
// what is marked uncertain, and never more often than the log says that it was
// tried; and when all is over each recipient has exactly one end.
func (v *verdict) checkDeliveries() {
	type copy struct{ sum, to string }
	arrived := map[copy]int{}
	for _, a := range v.rec.Arrivals {
		if !a.Trace {
			v.complain("the primary got a message without our trace line")
		}
		if len(v.found.bySum[a.SHA256]) == 0 && !v.mayBeOver(a.SHA256) {
			v.complain("the primary got a message that is not in the log (for %s)", a.To)
			continue
		}
		arrived[copy{a.SHA256, a.To}]++
	}
	for _, m := range v.found.mail {
		sum, rcpts := v.knownSum(m), m.rcpts
		if s := v.wishes.byID[m.id.String()]; rcpts == nil && s != nil {
			rcpts = s.To
		}
		if m.partial || sum == "" {
			continue
		}
		for i, to := range rcpts {
			d, n := v.found.units[event.Unit{Source: m.id, N: uint32(i)}], arrived[copy{sum, to}]
			if d == nil {
				v.complain("message %v has no recipient %s", m.id, to)
				continue
			}
			delivered := 0
			for _, r := range d.results {
				switch r {
				case event.ResultDelivered:
					delivered++
				case event.ResultBounced, event.ResultHeld, event.ResultExpired:
					v.complain("message %v for %s ended as %v; the primary refuses nothing", m.id, to, r)
				}
			}
			switch {
			case m.repudiated && n > 0:
				v.complain("message %v was repudiated and delivered to %s", m.id, to)
			case n > d.intents:
				v.complain("message %v came to %s %d times after %d intents", m.id, to, n, d.intents)
			case delivered > 0 && n == 0:
				v.complain("message %v is called delivered to %s, and never came", m.id, to)
			case n > 1 && delivered > 0 && !d.uncertain:
				v.complain("message %v came to %s %d times and is not marked uncertain (%v)", m.id, to, n, d.results)
			case delivered > 1:
				v.complain("message %v for %s has %d ends", m.id, to, delivered)
			case v.rec.Drained && !m.repudiated && delivered != 1 && v.wishes.erased[m.id.String()] == nil:
				v.complain("message %v for %s is not delivered at the end (%v)", m.id, to, d.results)
			}
		}
	}
}

// Summary is one line about what was looked at.
func Summary(rec *Record) string {
	n := map[Answer]int{}
	for _, s := range rec.Sent {
		n[s.Answer]++
	}
	views := 0
	for _, s := range rec.Steps {
		if s.Kind == View && s.OK {
			views++
		}
	}
	return fmt.Sprintf("%d kept, %d refused, %d unknown; %d arrivals; %d views, %d changes by the user",
		n[Kept], n[Refused], n[Lost], len(rec.Arrivals), views, len(slices.DeleteFunc(slices.Clone(rec.Steps), func(s Step) bool { return s.Kind == View })))
}
