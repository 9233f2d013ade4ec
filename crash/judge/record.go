// Package judge decides, after all the kills, whether the promises were kept. It
// runs as a process of its own, knows nothing of how the harness came to its
// record, and reads the bucket with the code that is released: it is built without
// failpoints.
//
// What it demands stands in the functions whose names begin with "check".
package judge

import (
	"strconv"
	"time"
)

// User is the one who looks into the mailbox.
const User = "alice@acme.test"

// Record is what the harness saw from outside, for the judge.
type Record struct {
	Config   Config
	Sent     []Sent
	Arrivals []Arrival // at the primary, in their order
	Steps    []Step    // of the one user, in their order
	Drained  bool      // faults have stopped, and the node said that nothing is due
	Balanced bool      // and that its books balance
	// Pardon are the runs of a node that was killed while its storage was away, or
	// had been a moment before: what it had refused for want of an answer may be in
	// the log without a repudiation, see docs/format.md, "Crash and damage".
	Pardon map[int]bool
	// Of a world whose days pass, in which mail is kept for one day:
	Days     bool
	Holds    []Order
	Erasures []Order
	Over     time.Time // when the work of all nights was done, at the end
	// Exported are the digests of all mail that can be found then, by id.
	Exported map[string]string
}

// Order is what an administrator asked for about one message.
type Order struct {
	Message      string    // its id
	OK           bool      // it was done; otherwise it may have happened or not
	Began, Ended int64     // on the same count as Sent.Heard
	At           time.Time // of the answer, by the node's clock
	Certificate  string    // file
}

// Config says where the bucket is.
type Config struct {
	URL     string
	RootKey string // file
	Env     map[string]string
	Shift   time.Duration // how far the node's clock is ahead
}

// Answer is what a sender heard to its final dot.
type Answer string

// The answers.
const (
	Kept    Answer = "kept"    // 250
	Refused Answer = "refused" // 4xx
	Lost    Answer = "lost"    // the connection broke, or nothing of the message was sent
	Wrong   Answer = "wrong"   // 5xx, which nobody deserved
)

// Sent is one SMTP transaction.
type Sent struct {
	N      int
	Run    int       // of the node, from 1
	Began  time.Time // by the node's clock
	To     []string
	SHA256 string // of the message's bytes, in hex
	Size   int64
	Answer Answer
	ID     string // of the event, from the 250
	Reply  string // when it was no 250
	Heard  int64  // when the answer was heard, on the harness's count of what happened
}

// Number is what the X-Number field of the message says.
func (s *Sent) Number() string { return strconv.Itoa(s.N) }

// Arrival is one recipient's copy of a transaction at the primary.
type Arrival struct {
	To     string
	SHA256 string // without the trace line above it
	Trace  bool   // there was one
}

// StepKind is what the user did.
type StepKind string

// The kinds of steps.
const (
	View    StepKind = "view"    // looked at a whole mailbox
	Flag    StepKind = "flag"    // added Flags to UID
	Expunge StepKind = "expunge" // removed UID
	Append  StepKind = "append"  // added the message Number
)

// Step is one thing that the user did over IMAP.
type Step struct {
	Kind    StepKind
	Mailbox string
	Began   int64     // on the same count as Sent.Heard
	Ended   int64     // on that count
	At      time.Time // the end, by the node's clock
	// OK: the server said so. Otherwise No says that it refused; if neither, the
	// connection broke, and it may or may not have happened.
	OK, No bool

	UID    uint32
	Flags  string
	Number string // of what is appended

	UIDValidity, UIDNext uint32
	Messages             map[uint32]Message
}

// Message is what a view shows of one message.
type Message struct {
	Number string // its X-Number field
	Flags  string // sorted
}
