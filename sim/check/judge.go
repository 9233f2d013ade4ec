package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/crypto"
	"holdfast/objstore"
	"holdfast/projection"
)

// Evidence is all that the judges look at, at rest: nothing fails any more, no
// queue should hold anything, every node stands at the tail.
type Evidence struct {
	Bucket   objstore.Bucket // as it is, without faults
	Recorder *Recorder       // below it
	Keys     crypto.KeyService
	URL      string      // of the bucket
	Nodes    []NodeState // with one that was built from nothing
	Stores   map[string]projection.Store
	History  History

	HeldAllowed         bool
	LeastDays, MostDays int // that a domain keeps mail
	Bounds              Bounds
}

// DefaultBounds are what nodes on one bucket keep in calm weather, when a request
// to it takes some milliseconds. They look for each other's segments every
// second: what a node answers itself must be quicker than that, or the look has
// made up for a wake-up that was lost.
func DefaultBounds() Bounds {
	return Bounds{Accept: 800 * time.Millisecond, Command: 800 * time.Millisecond, Look: 5 * time.Second, Deliver: 10 * time.Second}
}

// Judge asks all judges. An error says that the evidence could not be read, which
// at rest is a finding in itself.
func Judge(ctx context.Context, e Evidence) ([]Finding, error) {
	l, err := ReadLog(ctx, e.Bucket, e.Keys, e.URL, e.Recorder)
	if err != nil {
		return nil, err
	}
	var found []Finding
	found = append(found, Acceptance(l, &e.History)...)
	found = append(found, Delivery(l, &e.History, true, e.HeldAllowed)...)
	found = append(found, Mailboxes(l, &e.History)...)
	found = append(found, Allotted(l, &e.History)...)
	found = append(found, Folds(l, e.Nodes)...)
	found = append(found, Balance(l, e.Nodes)...)
	found = append(found, AtRest(e.Nodes, &e.History, e.HeldAllowed, e.Bounds)...)
	found = append(found, Retained(l, e.LeastDays, e.MostDays, nil)...)
	for _, judge := range []func() ([]Finding, error){
		func() ([]Finding, error) { return Legible(ctx, e.Bucket, e.Stores, &e.History) },
		func() ([]Finding, error) { return Sound(ctx, e.Bucket, e.Keys, e.URL) },
	} {
		more, err := judge()
		if err != nil {
			return found, err
		}
		found = append(found, more...)
	}
	return found, nil
}

// Report tells findings in lines, and what the history holds.
func Report(found []Finding, h *History) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintln(&b, f)
	}
	promised := 0
	for i := range h.Transactions {
		if h.Transactions[i].Code == 250 {
			promised++
		}
	}
	commands := slices.IndexFunc(h.Acts, func(a UserAct) bool { return a.Answer == AnswerOK }) + 1
	fmt.Fprintf(&b, "%d transactions, %d answered 250; %d arrivals; %d commands (first OK: %d); %d kills\n",
		len(h.Transactions), promised, len(h.Arrivals), len(h.Acts), commands, len(h.Kills))
	return b.String()
}

// Trail tells all that the log and the history say of a letter, for whoever looks
// into a finding.
func Trail(l *Log, h *History, letter string) string {
	var b strings.Builder
	marks := map[string]bool{}
	for i := range h.Transactions {
		if tx := &h.Transactions[i]; tx.Letter == letter {
			marks[tx.Mark] = true
			fmt.Fprintf(&b, "%s of %s at %s to %q: dot %d, answer %d %q, %d..%d\n", tx.Mark, tx.Sender, tx.Node, tx.To, tx.Dot, tx.Code, tx.Reply, tx.Sent, tx.At)
		}
	}
	l.All(func(e *Entry) {
		if strings.Contains(string(e.Body), letter) {
			fmt.Fprintf(&b, "%v %v durable at %d: %T\n", e.Ref.Position, e.Ref.ID, e.Since, e.Fact)
		}
	})
	for i := range h.Acts {
		a := &h.Acts[i]
		if a.Letter == letter {
			fmt.Fprintf(&b, "%s: %v to %s: answer %d, UID %d, at %d\n", a.User, a.Act, a.Mailbox, a.Answer, a.NewUID, a.At)
		}
		for _, s := range a.Seen {
			if s.Letter == letter {
				fmt.Fprintf(&b, "%s at %s sees it in %s as %d %q, at %d\n", a.User, a.Node, a.Mailbox, s.UID, s.Flags, a.At)
			}
		}
	}
	return b.String()
}
