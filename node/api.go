package node

import (
	"time"

	"holdfast/directory"
)

// The bodies of the admin socket's requests and answers. The socket speaks
// HTTP; every request is a POST of JSON but for status, and every answer JSON,
// lines of JSON, or a tar archive.

// Status is the answer of GET /status.
type Status struct {
	Ready       bool               `json:"ready"`
	Version     string             `json:"version"`
	Since       time.Time          `json:"since"`
	Warnings    []string           `json:"warnings"`
	Domains     []DomainStatus     `json:"domains"`
	Store       StoreStatus        `json:"store"`
	Log         LogStatus          `json:"log"`
	Projections []ProjectionStatus `json:"projections"`
	// UnpurgedSince says since when erased mail is still in this node's database
	// files; absent: it is not.
	UnpurgedSince *time.Time `json:"unpurged_since,omitempty"`
	Balance       *Balance   `json:"balance,omitempty"`   // absent when it cannot be made
	Retention     *Retention `json:"retention,omitempty"` // absent when it cannot be made
}

// Balance is the balance sheet of all (message, recipient) pairs, see
// [delivery.Sheet]: in every line,
//
//	accepted = delivered + due + held + bounced + expired + erased + difference
//
// and difference is 0 unless the node's queue is wrong.
type Balance struct {
	Balanced    bool            `json:"balanced"`
	Strays      int64           `json:"strays"` // entries of the queue too many, too few or astray
	Total       BalanceNumbers  `json:"total"`
	Redelivered *BalanceNumbers `json:"redelivered,omitempty"` // what administrators ordered, apart from the mail itself
	Domains     []DomainBalance `json:"domains"`
}

// BalanceNumbers is one line of a [Balance].
type BalanceNumbers struct {
	Accepted   int64 `json:"accepted"` // without the repudiated
	Delivered  int64 `json:"delivered"`
	Due        int64 `json:"due"`
	Held       int64 `json:"held"`
	Bounced    int64 `json:"bounced"`
	Expired    int64 `json:"expired"`
	Erased     int64 `json:"erased"`
	Difference int64 `json:"difference"`
	Notices    int64 `json:"notices"`    // of the accepted, bounces made here
	Uncertain  int64 `json:"uncertain"`  // of the delivered, perhaps twice
	Repudiated int64 `json:"repudiated"` // landed in the log after the sender was told 451, and taken back
}

// DomainBalance is what a domain's primary (in) or smart host (out) carries.
type DomainBalance struct {
	Domain    string `json:"domain"`
	Direction string `json:"direction"`
	BalanceNumbers
	Redelivered *BalanceNumbers `json:"redelivered,omitempty"`
	Days        []DayBalance    `json:"days"`              // by the UTC day of acceptance; older ones only when something is open
	Earlier     *DayBalance     `json:"earlier,omitempty"` // the others

	apart int64 // the differences of all lines, none of which cancels another
}

// DayBalance is one day of a [DomainBalance].
type DayBalance struct {
	Day string `json:"day,omitempty"`
	BalanceNumbers
	Redelivered *BalanceNumbers `json:"redelivered,omitempty"`
}

// DomainStatus is how a domain stands. Queued is the number of (message,
// recipient) pairs due to the primary, Held of those that are held in the queue,
// which has nothing to do with legal holds.
type DomainStatus struct {
	Name     string     `json:"name"`
	State    string     `json:"state"`
	Since    *time.Time `json:"since"`
	Queued   int64      `json:"queued"`
	Held     int64      `json:"held"`
	Outbound int64      `json:"outbound"`
	Failover string     `json:"failover"`
	Open     bool       `json:"open"` // users are admitted
}

// StoreStatus is about the bucket and the root key.
type StoreStatus struct {
	URL      string `json:"url"`
	ReadOnly bool   `json:"read_only"`
	BackedUp bool   `json:"root_key_backed_up"`
	// Trouble says that the store takes nothing that is appended, and since when;
	// empty while it does, or while nothing is appended.
	Trouble      string     `json:"trouble,omitempty"`
	TroubleSince *time.Time `json:"trouble_since,omitempty"`
}

// LogStatus is about the log.
type LogStatus struct {
	ID         string   `json:"id"`
	Partitions int      `json:"partitions"`
	Tails      []uint64 `json:"tails"` // the last segment of each
	// TestClock is by how much a test has moved the clock; empty but for tests.
	TestClock string `json:"test_clock,omitempty"`
	// BadPacks is how many packs this node has found damaged, or forged.
	BadPacks int `json:"bad_packs,omitempty"`
}

// ProjectionStatus is how far a projection is.
type ProjectionStatus struct {
	Name       string `json:"name"`
	Version    int    `json:"version"`
	Lag        uint64 `json:"lag"` // segments
	Rebuilding bool   `json:"rebuilding,omitempty"`
	Stopped    string `json:"stopped,omitempty"`
	StoppedAt  string `json:"stopped_at,omitempty"`
	Trouble    string `json:"trouble,omitempty"`
}

// ApplyRequest is the body of /apply.
type ApplyRequest struct {
	File  directory.File `json:"file"`
	Prune bool           `json:"prune"`
}

// ApplyAnswer says what changed.
type ApplyAnswer struct {
	Changes []string `json:"changes"`
}

// FailoverRequest is the body of /failover.
type FailoverRequest struct {
	Domain string `json:"domain"`
	Mode   string `json:"mode"`
}

// Selectors choose messages. Times are RFC 3339; empty members choose all.
type Selectors struct {
	IDs       []string  `json:"ids,omitempty"`
	Rcpt      string    `json:"rcpt,omitempty"`
	From      string    `json:"from,omitempty"`
	Subject   string    `json:"subject,omitempty"`
	MessageID string    `json:"message_id,omitempty"`
	State     string    `json:"state,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	Until     time.Time `json:"until,omitzero"`
	Limit     int       `json:"limit,omitempty"`
	After     string    `json:"after,omitempty"`
}

// Row is one message of a search.
type Row struct {
	ID       string    `json:"id"`
	Received time.Time `json:"received"`
	From     string    `json:"from"`
	Rcpt     []string  `json:"rcpt"`
	Subject  string    `json:"subject"`
	State    []string  `json:"state"`
	Size     int64     `json:"size"`
}

// Appended reports whether a user put the message into a mailbox.
func (r *Row) Appended() bool { return len(r.State) == 1 && r.State[0] == stateAppended }

const stateAppended = "appended"

// RedeliverRequest is the body of /redeliver.
type RedeliverRequest struct {
	Selectors
	To     string `json:"to,omitempty"`
	DryRun bool   `json:"dry_run,omitempty"`
}

// RedeliverLine is one line of the answer of /redeliver: one recipient of one
// message.
type RedeliverLine struct {
	ID     string `json:"id"`
	Rcpt   string `json:"rcpt"`
	Result string `json:"result"` // would-deliver, delivered, uncertain, queued, deferred, bounced, held, expired; not-found without a recipient
	Code   int    `json:"code,omitempty"`
}

const resultUnknown = "not-found"

// NotFound reports that the line is about a message that does not exist, or not
// any more.
func (l RedeliverLine) NotFound() bool { return l.Result == resultUnknown }

// HoldRequest is the body of /hold/add and, with a name, a reason and perhaps a
// tenant, of /hold/release.
type HoldRequest struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
	Scope
}

// HoldAnswer says what a hold keeps at the moment, or kept when it was released.
type HoldAnswer struct {
	Name      string `json:"name"`
	Tenant    string `json:"tenant"`
	Messages  uint64 `json:"messages"`
	Condemned uint64 `json:"condemned"` // of what it selects, these expire all the same
}

// HoldsAnswer is the answer of /hold/list.
type HoldsAnswer struct {
	Holds []HoldStatus `json:"holds"`
}

// HoldStatus is one hold that stands.
type HoldStatus struct {
	Name     string    `json:"name"`
	Tenant   string    `json:"tenant"`
	Since    time.Time `json:"placed"`
	Who      string    `json:"who"`
	Reason   string    `json:"reason"`
	Messages uint64    `json:"messages"` // that it keeps now
	Domain   string    `json:"domain,omitempty"`
	Users    []string  `json:"users,omitempty"`
	Selectors
}

// ClockAnswer is the answer of /retention/confirm-clock: the time that was
// confirmed.
type ClockAnswer struct {
	Now time.Time `json:"now"`
}

// EraseRequest is the body of /erase. With DryRun nothing is erased.
type EraseRequest struct {
	Reason string `json:"reason"`
	DryRun bool   `json:"dry_run,omitempty"`
	// Only are the ids to which an administrator has agreed: of what matches, the
	// others are left alone.
	Only []string `json:"only,omitempty"`
	Scope
}

// EraseLine is one line of the answer of /erase: a message, the certificate of an
// erasure, or at the end the counts.
type EraseLine struct {
	Message *Row `json:"message,omitempty"` // of a dry run
	// Certificate is the id of the event that certifies the erasure of Messages,
	// Place where it stands in the log; /prove takes both.
	Certificate string `json:"certificate,omitempty"`
	Place       string `json:"place,omitempty"`
	Done        bool   `json:"done,omitempty"`
	Tenant      string `json:"tenant,omitempty"`
	Messages    int    `json:"messages"`
	// Shared is how many of them went to other users, too, than the one whose
	// mail was to be erased.
	Shared int `json:"shared,omitempty"`
	// Held names the holds that forbid it; of a dry run.
	Held []string `json:"held,omitempty"`
}

// VerifyRequest is the body of /verify. Since are checkpoints that were kept
// elsewhere, one note each.
type VerifyRequest struct {
	Since []string `json:"since,omitempty"`
}

// VerifyLine is one line of the answer of /verify: a damage, or the counts at
// the end.
type VerifyLine struct {
	Damage   string `json:"damage,omitempty"`
	Done     bool   `json:"done,omitempty"` // the whole log was read
	Segments uint64 `json:"segments,omitempty"`
	Events   uint64 `json:"events,omitempty"`
	Bodies   uint64 `json:"bodies,omitempty"`
	Bytes    uint64 `json:"bytes,omitempty"`
	Orphans  uint64 `json:"orphans,omitempty"` // objects that no event refers to: no damage
	Damaged  uint64 `json:"damaged,omitempty"`
	// Expired is the number of events whose mail is gone because its time was
	// over; Ended that of events of tenants that have ended; Checkpoints that of
	// checkpoints in the bucket.
	Expired     uint64 `json:"expired,omitempty"`
	Ended       uint64 `json:"ended,omitempty"`
	Checkpoints uint64 `json:"checkpoints,omitempty"`
}

// ProveRequest is the body of /prove: the id of a message, of an erasure or of the
// order for it, or the place of an event as PARTITION/SEGMENT/INDEX.
type ProveRequest struct {
	ID string `json:"id"`
}

// CheckpointAnswer has the newest checkpoint of each partition that is not empty.
type CheckpointAnswer struct {
	Notes []string `json:"notes"`
}

// Failure is the answer to a request that failed, and the last line of an
// answer that broke off. Wrong marks a request that was wrong in itself.
type Failure struct {
	Error string `json:"error"`
	Wrong bool   `json:"wrong,omitempty"`
}
