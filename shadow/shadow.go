// Package shadow is the index of the mail that is kept: who sent what to whom,
// when, and what became of it. Administrators search it, and what they find can
// be delivered again.
//
// It is a projection over the log and a search over what the projection keeps.
// [New] adds the projection to a runner; [Service.Search] yields what matches,
// newest first; [Service.Get] looks up one message; [Service.Counts] tells how
// many recipients are in which state. [Service.Under] yields what a legal hold
// selects, and [Service.Days] tells how much mail expires when.
//
// Rows are kept in blocks, each sealed under the key of the day on which its
// mail expires, and so are the filters by which a search passes over blocks that
// cannot hold what it looks for. States, times and places are not derived from
// what the mail says and stand beside them under the database's own encryption.
//
// # How things match
//
// Addresses match without regard to case. A recipient or sender that is looked
// for is a whole address, or a domain when it is written "@example.org" or
// without any "@". The sender is that of the envelope or any address in From;
// "<>" is the null reverse-path. A recipient is one of the envelope, as it was
// addressed.
//
// A subject matches when it has all of the given words, in any order. Words are
// runs of letters and digits; they are compared whole and without regard to
// case, after encoded words (RFC 2047) were decoded. Scripts that are written
// without spaces are compared by character, and a run of them must occur as it
// was given. What has no words in it must occur as it is.
//
// A Message-ID matches as a whole, with or without angle brackets; case counts.
//
// What users put into their mailboxes themselves (IMAP APPEND: drafts, copies that
// clients keep) is in the index, too. Its recipient is its owner, in the state
// appended, and so is whoever stands in To, Cc or Bcc. Holds select it, and so do
// erasures; a search finds it only when it asks for that state.
//
// A state matches when one of the recipients is in it; together with a
// recipient, when that recipient is in it. Since is inclusive, Until is not, and
// both are about reception: when the segment of the log was written that holds
// the message, so that newer in the log is not older by the clock.
package shadow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"holdfast/event"
	"holdfast/projection"
)

// Errors of searches.
var (
	// ErrNotFound says that there is no such message, or not any more.
	ErrNotFound = errors.New("no such message")
	// ErrState says that a query asks for a state that does not exist.
	ErrState = errors.New("no such state; the states are due, delivered, uncertain, held, bounced, expired, erased and appended")
)

// The limits of a search: what it yields when nothing was said, and at most.
const (
	DefaultLimit = 100
	MaxLimit     = 10000
)

// Log is what this package asks of an eventlog.Log: which is the last segment
// that this node knows of, so that a search sees all that was answered before.
type Log interface {
	Partitions() int
	PartitionOf(event.Tenant) event.Partition
	TailAtLeast(event.Partition) event.Seq
}

// Service searches the index. Its methods may be called by any goroutine.
type Service struct {
	log    Log
	runner *projection.Runner
	logger *slog.Logger
	held   heldMemory
	// underAtOnce is how many messages Under looks up in one view.
	underAtOnce int
}

// New returns a Service. Its projection is added to the runner.
func New(log Log, runner *projection.Runner, logger *slog.Logger) (*Service, error) {
	return newService(log, runner, logger, newFold())
}

func newService(log Log, runner *projection.Runner, logger *slog.Logger, f fold) (*Service, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := runner.Add(f); err != nil {
		return nil, fmt.Errorf("shadow: %w", err)
	}
	return &Service{log: log, runner: runner, logger: logger, underAtOnce: underAtOnce}, nil
}

// Query says what is looked for; what is zero in it selects nothing out.
type Query struct {
	// Tenants are those whose mail may be seen; empty means all.
	Tenants []event.Tenant

	Rcpt      string
	From      string
	Subject   string
	MessageID string
	State     string
	Since     time.Time
	Until     time.Time

	// Limit is how many rows are yielded: 0 means DefaultLimit, and no more
	// than MaxLimit are.
	Limit int
	// After begins behind this message, which an earlier search yielded.
	After event.ID
}

// Row is one message. The slices Rcpt, State, Domain, Outside and Selected have
// one element for each recipient, in the order of the units of delivery.
type Row struct {
	ID       event.ID
	Ref      event.Ref
	Tenant   event.Tenant
	Expiry   event.Day
	Received time.Time // UTC, to the millisecond

	// From is the reverse-path, empty for the null path.
	From string
	Rcpt []string
	// State is one of the words that [States] returns.
	State []string
	// Domain is the one whose route carries it: the recipient's own, or the
	// sender's where Outside is set. With Outside it is what a redelivery states.
	Domain  []string
	Outside []bool
	// Selected tells which recipients the query selects: all, unless it asks for
	// a recipient or a state.
	Selected []bool

	// What the header says: addresses of From and To, the decoded subject, the
	// Message-ID without brackets, the Date as it is written. Long ones are cut.
	HeaderFrom []string
	HeaderTo   []string
	Subject    string
	MessageID  string
	Date       string

	Origin event.Origin // zero of what a user put into a mailbox
	Size   int64        // bytes as the sender sent them
}

// Appended reports whether a user put the message into a mailbox (IMAP APPEND). It
// was not sent through here, and cannot be delivered again.
func (r *Row) Appended() bool { return r.Origin == byUser }

// MarshalJSON writes the keys id, received, from, rcpt, state, subject and size.
func (r Row) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ID       string    `json:"id"`
		Received time.Time `json:"received"`
		From     string    `json:"from"`
		Rcpt     []string  `json:"rcpt"`
		State    []string  `json:"state"`
		Subject  string    `json:"subject"`
		Size     int64     `json:"size"`
	}{r.ID.String(), r.Received, r.From, r.Rcpt, r.State, r.Subject, r.Size})
}

// fresh waits until the index has all that this node knows of.
func (s *Service) fresh(ctx context.Context, tenants []event.Tenant) error {
	parts := map[event.Partition]bool{}
	for _, t := range tenants {
		parts[s.log.PartitionOf(t)] = true
	}
	for i := range s.log.Partitions() {
		p := event.Partition(i)
		if len(tenants) > 0 && !parts[p] {
			continue
		}
		pos := event.Position{Partition: p, Seq: s.log.TailAtLeast(p)}
		if err := s.runner.WaitFor(ctx, foldName, pos); err != nil {
			return fmt.Errorf("search: %w", err)
		}
	}
	return nil
}

// Get returns one message, or [ErrNotFound].
func (s *Service) Get(ctx context.Context, id event.ID) (row Row, err error) {
	if err := s.fresh(ctx, nil); err != nil {
		return row, err
	}
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		r, _, err := find(v, id)
		if err != nil {
			return err
		}
		row = r.public()
		return nil
	})
	return row, err
}

// Count is how many recipients of a domain's mail are in a state.
type Count struct {
	Tenant event.Tenant
	Domain string // whose route carries the mail
	State  string
	N      uint64
}

// Counts returns the counts of all domains and states that are not zero, as of
// the last segment that was folded. Mail that has expired is not counted.
func (s *Service) Counts(ctx context.Context) (out []Count, err error) {
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		out, err = counts(v)
		return err
	})
	return out, err
}

// DayCount is how much of a tenant's mail expires on a day.
type DayCount struct {
	Tenant   event.Tenant
	Day      event.Day
	Messages uint64
	Bytes    uint64 // as the senders sent them
	Past     uint64 // messages that were kept past an earlier day
}

// DomainCount is what is kept of a domain's mail: what its route carries, and
// what its users have sent. A message of several domains counts in each of them.
type DomainCount struct {
	Tenant      event.Tenant
	Domain      string
	Messages    uint64
	Bytes       uint64    // as the senders sent them
	Oldest      event.Day // the first day on which some of it expires; 0 when there is none
	Past        uint64    // messages that were kept past an earlier day
	Erased      uint64    // messages by order, ever
	ErasedBytes uint64
}

// Domains returns what is kept and what was erased by tenants and domains, in
// their order, as of the last segment that was folded. It takes time in proportion
// to the days and domains, not to the messages.
func (s *Service) Domains(ctx context.Context) (out []DomainCount, err error) {
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		out, err = domains(v)
		return err
	})
	return out, err
}

// Days returns how much mail is kept, by tenants and days in their order, as of
// the last segment that was folded.
func (s *Service) Days(ctx context.Context) (out []DayCount, err error) {
	err = s.runner.View(ctx, foldName, func(v projection.View) error {
		out, err = days(v)
		return err
	})
	return out, err
}
