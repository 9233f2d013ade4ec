package check

import (
	"sync/atomic"
	"time"
)

// Moment numbers what happens in a simulation; of two things of which one caused
// the other, the cause has the lower. Zero is never. What happened at once may be
// numbered either way.
type Moment uint64

// Order gives moments. Its methods may be called by any goroutine.
type Order struct{ last atomic.Uint64 }

// Now returns a moment later than all before.
func (o *Order) Now() Moment { return Moment(o.last.Add(1)) }

// Dot says how far a sender came with the end of its message: the final dot, or
// the last chunk.
type Dot uint8

// How far a sender came.
const (
	DotUnsent  Dot = iota // certainly not all of it left the sender: not accepted
	DotPerhaps            // all was given to the network; whether it arrived is unknown
	DotSent               // and something was answered
)

// Transaction is one SMTP transaction as its sender saw it. Each has a mark of
// its own (RFC 3461 §4.4 ENVID), by which it is recognised in the log.
type Transaction struct {
	Sender     string // the inhabitant
	Node       string // whom it spoke to
	Mark       string
	Letter     string   // what is unique in the message's text; the same for every try
	From       string   // reverse-path
	To         []string // recipients that were answered 250
	Body       []byte   // as it should be kept
	Submission bool
	Dot        Dot
	Code       int    // the answer to the end of the message; 0 when none was read
	Reply      string // its text
	Sent       Moment // when the end of the message was about to leave
	At         Moment // when the answer was read, or not waited for any longer
	Began      time.Time
	Waited     time.Duration // from the end of the message to the answer
	Calm       bool          // nobody misbehaved, and no storage failed, from its begin to its end
}

// Arrival is a message as a primary, or a smart host, got it and was about to
// answer 250 to.
type Arrival struct {
	Primary string
	From    string
	To      []string
	Body    []byte
	At      Moment // before the answer left
	Time    time.Time
}

// Act is what a user did, or looked at.
type Act uint8

// The acts. Zero is invalid.
const (
	Looked   Act = iota + 1 // SELECT, and FETCH of everything
	Stored                  // UID STORE of one flag
	Copied                  // UID COPY
	Moved                   // UID MOVE
	Expunged                // UID EXPUNGE, of messages with \Deleted
	Appended                // APPEND
	Created                 // CREATE
	Deleted                 // DELETE
	Idled                   // IDLE, until a message that was sent meanwhile showed
)

// String returns the command's name.
func (a Act) String() string {
	return [...]string{"nothing", "look", "store", "copy", "move", "expunge", "append", "create", "delete", "idle"}[a]
}

// Answer is how a command ended.
type Answer uint8

// The answers. Only AnswerOK is a promise: what was refused or not answered may
// still happen, once.
const (
	AnswerNone Answer = iota
	AnswerOK
	AnswerNo
)

// UserAct is one command of a user over IMAP, and what came of it. A user has one
// session at a time, and nobody else uses the account.
type UserAct struct {
	User     string // address
	Node     string
	Act      Act
	Answer   Answer
	Mailbox  string
	Validity uint32            // of Mailbox as it was selected; with Appended, as told
	UIDs     []uint32          // touched
	Flag     string            // of Stored
	Set      bool              // of Stored: added, else taken away
	To       string            // of Copied and Moved
	ToValid  uint32            // as told; 0 when not told
	ToUIDs   map[uint32]uint32 // as told: from the source's to the destination's
	Letter   string            // of Appended
	NewUID   uint32            // of Appended, as told
	UIDNext  uint32            // of Looked
	Seen     []SeenMessage     // of Looked, ascending by UID
	At       Moment            // of the answer
	Final    bool              // looked at the very end
	Waited   time.Duration
	Calm     bool
}

// SeenMessage is one message of a mailbox as it was shown.
type SeenMessage struct {
	UID    uint32
	Flags  []string // sorted, without \Recent
	Letter string   // found in its text; empty for one that no inhabitant wrote
	Body   []byte
}

// Kill is the end of a process that had no time for anything.
type Kill struct {
	Node string
	At   Moment
}

// History is what the inhabitants of a world saw, in an order that does not
// depend on which of them was faster.
type History struct {
	Transactions []Transaction // by sender, then in the order of its doing
	Arrivals     []Arrival     // by primary, then as they came
	Acts         []UserAct     // by user, then in the order of doing
	Kills        []Kill
	Words        []string // that must not be legible in the bucket
	MailWords    []string // those of them that stem from mail: not in a database either
}

// Append adds what others saw.
func (h *History) Append(o History) {
	h.Transactions = append(h.Transactions, o.Transactions...)
	h.Arrivals = append(h.Arrivals, o.Arrivals...)
	h.Acts = append(h.Acts, o.Acts...)
	h.Kills = append(h.Kills, o.Kills...)
	h.Words = append(h.Words, o.Words...)
	h.MailWords = append(h.MailWords, o.MailWords...)
}
