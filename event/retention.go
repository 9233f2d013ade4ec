package event

import "github.com/fxamacker/cbor/v2"

// The facts of retention. How they follow each other is told in package
// retention; in short, for each tenant and day: [DayCondemned], a [Kept] for each
// message that is still needed, [DayExpired], and a [DaySwept] for each further step
// that folds need to remove what these end; and when every tenant is through,
// [RatchetMoved] for the installation, [DayRemoved] when the objects are gone.

// DayCondemned says that the mail of a tenant which expires on Day, or expired
// before, will be destroyed unless it is needed where this stands in the log. A
// message is needed when a user has filed it, when it is due or held, or when a
// hold selects it that was placed before. Nothing that comes after it can make
// such a message needed again: folds refuse to file, to hold or to order what
// was not.
type DayCondemned struct {
	At  Millis `cbor:"1,keyasint"`
	Day Day    `cbor:"2,keyasint"`
}

// Reasons is a set of reasons for which a message is kept past its day.
type Reasons uint8

// The reasons.
const (
	KeptFiled Reasons = 1 // a user has filed it
	KeptDue   Reasons = 2 // it is due, or held by the queue
	KeptHold  Reasons = 4 // a hold selects it
)

// Kept is a message that is still needed on its last day, written anew under the
// key of a later one: the event has the message's body, and in it stands what the
// event held that it replaces. From here on the message is read here, under the
// id that it always had, and expires with this event's day. Of several the last
// in the log counts.
type Kept struct {
	At      Millis  `cbor:"1,keyasint"`
	Message ID      `cbor:"2,keyasint"` // the first event's, through all copies
	From    Ref     `cbor:"3,keyasint"` // the event that this replaces
	Why     Reasons `cbor:"4,keyasint"`
	// Was is the state part of the first event: a [MessageAccepted] or an
	// [Appended], as [Encode] gave it. Read it with [Kept.Original].
	Was []byte `cbor:"5,keyasint"`

	// Meta is nil once this event's day has expired, or when it was erased.
	Meta *KeptMeta `cbor:"-"`
}

// KeptMeta is the mail-derived part of a [Kept].
type KeptMeta struct {
	Was cbor.RawMessage `cbor:"1,keyasint"` // that of the first event
}

// Original returns the fact that the first event recorded. The error wraps
// [ErrMalformed].
func (k *Kept) Original() (Fact, error) {
	if k.Meta == nil {
		return Decode(k.Was, nil)
	}
	return Decode(k.Was, k.Meta.Was)
}

// DayExpired says that what was needed of a condemned day has been kept, so that
// nothing of the tenant that expires on Day or before is wanted any more.
type DayExpired struct {
	At  Millis `cbor:"1,keyasint"`
	Day Day    `cbor:"2,keyasint"`
}

// DaySwept lets folds take a further step of what [DayCondemned] and [DayExpired]
// have begun: of a day with much mail each event removes a bounded part, so that
// nothing else waits for long. The facts of others come between such steps. It
// decides nothing, and there may be more of them than are needed.
type DaySwept struct {
	At Millis `cbor:"1,keyasint"`
}

// RatchetMoved says that every tenant's mail that expires before To has expired:
// every node forgets the keys of the days before To. It belongs to
// [SystemTenant].
type RatchetMoved struct {
	At Millis `cbor:"1,keyasint"`
	To Day    `cbor:"2,keyasint"`
}

// DayRemoved says how many objects of days up to Day were removed from the
// bucket. It belongs to [SystemTenant].
type DayRemoved struct {
	At      Millis `cbor:"1,keyasint"`
	Day     Day    `cbor:"2,keyasint"`
	Objects uint64 `cbor:"3,keyasint"`
	Bytes   uint64 `cbor:"4,keyasint"`
	// Locked objects were not removed, because the store forbids it (S3 Object
	// Lock). They open no more.
	Locked uint64 `cbor:"5,keyasint,omitempty"`
}

// ObjectsCondemned names events whose body parts lie in the bucket although no
// event refers to them: they will be removed. Whoever appends such an event
// after this has to store its body anew. One stands in each partition in which
// the event could appear.
type ObjectsCondemned struct {
	At       Millis `cbor:"1,keyasint"`
	Messages []ID   `cbor:"2,keyasint"`
}

// HoldMatch selects messages for a hold; every field that is set must match, and
// what package shadow says about matching holds.
type HoldMatch struct {
	Domain    string   `cbor:"1,keyasint,omitempty"` // mail to or from its users
	Users     []string `cbor:"2,keyasint,omitempty"` // mail to or from one of these addresses
	Rcpt      string   `cbor:"3,keyasint,omitempty"`
	From      string   `cbor:"4,keyasint,omitempty"`
	Subject   string   `cbor:"5,keyasint,omitempty"`
	MessageID string   `cbor:"6,keyasint,omitempty"`
	Since     Millis   `cbor:"7,keyasint,omitempty"`
	Until     Millis   `cbor:"8,keyasint,omitempty"`
	Messages  []ID     `cbor:"9,keyasint,omitempty"` // one of these
}

// HoldPlaced puts the mail of a tenant that matches under legal hold, present and
// future: it does not expire and cannot be erased until the hold is released.
type HoldPlaced struct {
	At     Millis    `cbor:"1,keyasint"`
	Who    string    `cbor:"2,keyasint"`
	Name   string    `cbor:"3,keyasint"` // unique in the tenant
	Reason string    `cbor:"4,keyasint"`
	Match  HoldMatch `cbor:"5,keyasint"`
}

// HoldReleased ends a hold.
type HoldReleased struct {
	At     Millis `cbor:"1,keyasint"`
	Who    string `cbor:"2,keyasint"`
	Name   string `cbor:"3,keyasint"`
	Reason string `cbor:"4,keyasint"`
}

// ErasureOrdered says that an administrator wants messages erased. The fold
// refuses it as a whole when the tenant's holds have changed since they were
// compared with the messages.
type ErasureOrdered struct {
	At     Millis `cbor:"1,keyasint"`
	Who    string `cbor:"2,keyasint"`
	Reason string `cbor:"3,keyasint"`
	Items  []Ref  `cbor:"4,keyasint"` // the messages, where they are read
	// Holds is how often the tenant's holds had changed when the order was made.
	Holds uint64 `cbor:"5,keyasint,omitempty"`
}

// Erased says that messages are gone by order: their keys were removed from the
// key pages. It is the certificate of that.
type Erased struct {
	At     Millis       `cbor:"1,keyasint"`
	Order  ID           `cbor:"2,keyasint"` // of the ErasureOrdered
	Who    string       `cbor:"3,keyasint"`
	Reason string       `cbor:"4,keyasint"`
	Items  []ErasedItem `cbor:"5,keyasint"`
}

// Messages returns the ids of the messages, each once: one that was kept past its
// day has stood in several places, which are items of their own.
func (f *Erased) Messages() (ids []ID) {
	seen := make(map[ID]bool, len(f.Items))
	for _, it := range f.Items {
		if !seen[it.Message] {
			seen[it.Message] = true
			ids = append(ids, it.Message)
		}
	}
	return ids
}

// ErasedItem is one place of the log at which a message of an [Erased] stood.
type ErasedItem struct {
	Message ID  `cbor:"1,keyasint"`
	Place   Ref `cbor:"2,keyasint"` // of its own event, or of a Kept of it
	// Accounts are those in whose mailboxes it may be.
	Accounts []Account `cbor:"3,keyasint,omitempty"`
	// Digests are the SHA-256 of its sealed parts, metadata and body, as they
	// stand in the segment's header.
	Digests [][32]byte `cbor:"4,keyasint,omitempty"`
	Size    int64      `cbor:"5,keyasint"` // bytes of the body
}

// TenantEndOrdered says that an administrator wants a tenant ended. It belongs to
// the tenant. The fold refuses it when the tenant has a hold, or its holds have
// changed since they were looked at; from then on it refuses holds.
type TenantEndOrdered struct {
	At     Millis `cbor:"1,keyasint"`
	Who    string `cbor:"2,keyasint"`
	Reason string `cbor:"3,keyasint"`
	Name   string `cbor:"4,keyasint"` // of the tenant
	// Holds is how often the tenant's holds had changed when the order was made.
	Holds uint64 `cbor:"5,keyasint,omitempty"`
}

// TenantCondemned says that all of a tenant will be destroyed. It stands twice:
// as the last event of the tenant, behind which nothing of the tenant is appended
// any more; and then, since that will not be readable, among those of
// [SystemTenant]. There it stands before anything of the tenant's keys is removed,
// and folds drop what they have of the tenant: some with each of several, if it is
// much.
type TenantCondemned struct {
	At     Millis `cbor:"1,keyasint"`
	Who    string `cbor:"2,keyasint"`
	Reason string `cbor:"3,keyasint"`
	Name   string `cbor:"4,keyasint"`
	Tenant Tenant `cbor:"5,keyasint"`
}

// TenantEnded says that a tenant is no more: its secrets are removed, and
// nothing of it can be read again. It is the certificate of that, and belongs to
// [SystemTenant].
type TenantEnded struct {
	At     Millis `cbor:"1,keyasint"`
	Who    string `cbor:"2,keyasint"`
	Reason string `cbor:"3,keyasint"`
	Tenant Tenant `cbor:"4,keyasint"`
	Name   string `cbor:"5,keyasint"`
	Order  ID     `cbor:"6,keyasint"` // of the system's TenantCondemned
	// Objects, and their bytes, were removed from the bucket now: key pages and
	// bodies. Locked ones the store did not let go; they open no more.
	Objects uint64 `cbor:"7,keyasint,omitempty"`
	Bytes   uint64 `cbor:"8,keyasint,omitempty"`
	Locked  uint64 `cbor:"9,keyasint,omitempty"`
}

// BaseTaken says that the state of a projection at a point of the log is kept in
// the bucket, and that two folds which did not share their work came to it. It
// belongs to [SystemTenant].
type BaseTaken struct {
	At         Millis       `cbor:"1,keyasint"`
	Projection string       `cbor:"2,keyasint"`
	Version    uint32       `cbor:"3,keyasint"`
	Cursors    []BaseCursor `cbor:"4,keyasint"` // one for each partition
	Hash       [32]byte     `cbor:"5,keyasint"` // of the state
	Size       int64        `cbor:"6,keyasint"` // bytes of the state
	Index      Snap         `cbor:"7,keyasint"` // the object that names the others
	Chunks     uint32       `cbor:"8,keyasint"` // how many those are
}

// BaseCursor is how far a state has folded one partition.
type BaseCursor struct {
	Seq  Seq      `cbor:"1,keyasint"`
	Hash [32]byte `cbor:"2,keyasint"` // of that segment's header
	Prev [32]byte `cbor:"3,keyasint"` // of the one before
}

// Kind returns KindDayCondemned.
func (*DayCondemned) Kind() Kind { return KindDayCondemned }

// Kind returns KindKept.
func (*Kept) Kind() Kind { return KindKept }

// Kind returns KindDayExpired.
func (*DayExpired) Kind() Kind { return KindDayExpired }

// Kind returns KindDaySwept.
func (*DaySwept) Kind() Kind { return KindDaySwept }

// Kind returns KindRatchetMoved.
func (*RatchetMoved) Kind() Kind { return KindRatchetMoved }

// Kind returns KindDayRemoved.
func (*DayRemoved) Kind() Kind { return KindDayRemoved }

// Kind returns KindObjectsCondemned.
func (*ObjectsCondemned) Kind() Kind { return KindObjectsCondemned }

// Kind returns KindHoldPlaced.
func (*HoldPlaced) Kind() Kind { return KindHoldPlaced }

// Kind returns KindHoldReleased.
func (*HoldReleased) Kind() Kind { return KindHoldReleased }

// Kind returns KindErasureOrdered.
func (*ErasureOrdered) Kind() Kind { return KindErasureOrdered }

// Kind returns KindErased.
func (*Erased) Kind() Kind { return KindErased }

// Kind returns KindTenantEnded.
func (*TenantEnded) Kind() Kind { return KindTenantEnded }

// Kind returns KindTenantEndOrdered.
func (*TenantEndOrdered) Kind() Kind { return KindTenantEndOrdered }

// Kind returns KindTenantCondemned.
func (*TenantCondemned) Kind() Kind { return KindTenantCondemned }

// Kind returns KindBaseTaken.
func (*BaseTaken) Kind() Kind { return KindBaseTaken }

// Class returns ClassRetention.
func (*DayCondemned) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*Kept) Class() Class    { return ClassRetention }
func (k *Kept) metaPart() any { return &k.Meta }

// Class returns ClassRetention.
func (*DayExpired) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*DaySwept) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*RatchetMoved) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*DayRemoved) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*ObjectsCondemned) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*HoldPlaced) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*HoldReleased) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*ErasureOrdered) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*Erased) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*TenantEnded) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*TenantEndOrdered) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*TenantCondemned) Class() Class { return ClassRetention }

// Class returns ClassRetention.
func (*BaseTaken) Class() Class { return ClassRetention }
