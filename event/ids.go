// Package event states the facts that Holdfast's log records, and their
// encoding. It is pure: it knows no clock, no network, no storage and no keys.
//
// A fact is something that has happened and is never taken back: a message was
// accepted, a delivery was attempted, a user set a flag. Each is a Go struct in
// this package with a [Kind] that is never reused, encoded as deterministic
// CBOR (RFC 8949 §4.2.1) with integer keys. Fields may be added with new keys;
// a key's meaning never changes. A reader that meets a kind it does not know
// must stop, because a fold that skips a fact is wrong from there on.
package event

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ErrMalformed is wrapped by every error for bytes that are not the value they
// should be.
var ErrMalformed = errors.New("malformed")

// ID names one event for ever: 128 random bits minted when the event begins
// (for a message: at reception). It is in the 250 answer and in every log line.
type ID [16]byte

// LogID names one log (one bucket's worth of partitions): 128 random bits
// minted when the bucket is formatted. A copy of a bucket keeps it.
type LogID [16]byte

// Tenant is the opaque id under which a customer appears in the bucket. What
// belongs to no customer is kept under [SystemTenant]; the zero Tenant is
// invalid.
type Tenant [16]byte

// Account is the opaque id of one user of a tenant, minted when the user is
// first listed.
type Account [16]byte

// Writer names one start of one process: 128 random bits.
type Writer [16]byte

// Page names one key page of one writer.
type Page [16]byte

// Snap names one object of a Base: 128 random bits, which are used once.
type Snap [16]byte

// SystemTenant owns the events that belong to no customer. They live in
// partition 0.
var SystemTenant = Tenant{15: 1}

// NewID returns a fresh random ID.
func NewID() ID { return ID(random()) }

// NewLogID returns a fresh random LogID.
func NewLogID() LogID { return LogID(random()) }

// NewAccount returns a fresh random Account.
func NewAccount() Account { return Account(random()) }

// NewWriter returns a fresh random Writer.
func NewWriter() Writer { return Writer(random()) }

// NewPage returns a fresh random Page.
func NewPage() Page { return Page(random()) }

// NewSnap returns a fresh random Snap.
func NewSnap() Snap { return Snap(random()) }

func random() (b [16]byte) {
	rand.Read(b[:]) // never fails: crypto/rand crashes the program instead
	return b
}

// String returns 32 lower-case hexadecimal digits.
func (id ID) String() string      { return hex.EncodeToString(id[:]) }
func (id LogID) String() string   { return hex.EncodeToString(id[:]) }
func (id Tenant) String() string  { return hex.EncodeToString(id[:]) }
func (id Account) String() string { return hex.EncodeToString(id[:]) }
func (id Writer) String() string  { return hex.EncodeToString(id[:]) }
func (id Page) String() string    { return hex.EncodeToString(id[:]) }
func (id Snap) String() string    { return hex.EncodeToString(id[:]) }

// ParseID reads what [ID.String] wrote. The error wraps [ErrMalformed].
func ParseID(s string) (ID, error) {
	b, err := parse16(s)
	return ID(b), err
}

// ParseTenant reads what [Tenant.String] wrote. The error wraps [ErrMalformed].
func ParseTenant(s string) (Tenant, error) {
	b, err := parse16(s)
	return Tenant(b), err
}

// ParsePage reads what [Page.String] wrote. The error wraps [ErrMalformed].
func ParsePage(s string) (Page, error) {
	b, err := parse16(s)
	return Page(b), err
}

// ParseSnap reads what [Snap.String] wrote. The error wraps [ErrMalformed].
func ParseSnap(s string) (Snap, error) {
	b, err := parse16(s)
	return Snap(b), err
}

func parse16(s string) (b [16]byte, err error) {
	if len(s) != 32 {
		return b, fmt.Errorf("id of %d characters, want 32: %w", len(s), ErrMalformed)
	}
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return b, fmt.Errorf("id is not hexadecimal: %w", ErrMalformed)
	}
	return b, nil
}

// Day is a UTC calendar day, counted from 1970-01-01 (day 0). Mail expires by
// whole days.
type Day int32

// DayOf returns the UTC day in which t lies.
func DayOf(t time.Time) Day {
	s := t.Unix()
	if s < 0 {
		s -= 86399
	}
	return Day(s / 86400)
}

// Start returns the first instant of the day, in UTC.
func (d Day) Start() time.Time { return time.Unix(int64(d)*86400, 0).UTC() }

// String returns the day as YYYY-MM-DD, the form used in bucket keys.
func (d Day) String() string { return d.Start().Format(time.DateOnly) }

// ParseDay reads YYYY-MM-DD. The error wraps [ErrMalformed].
func ParseDay(s string) (Day, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return 0, fmt.Errorf("day is not YYYY-MM-DD: %w", ErrMalformed)
	}
	return DayOf(t), nil
}

// Role says which sealed part of an event some bytes are. It is bound into the
// associated data of the seal, so that no part can stand in for another.
type Role uint8

// The roles. Zero is invalid.
const (
	// RoleState is the long-lived part: for a message its allotment (which
	// mailboxes it enters, as opaque ids, and its size). Sealed under the
	// tenant's state key; outlives the mail.
	RoleState Role = 1
	// RoleMeta is mail-derived: envelope, headers, structure. Sealed under the
	// event's leaf of the expiry day's key page; dies with the mail.
	RoleMeta Role = 2
	// RoleBody is the message's own bytes, under the same leaf.
	RoleBody Role = 3
	// RoleSnap is a piece of a Base, under the system tenant's state key, with its
	// name in the place of the event's id. It is of no event.
	RoleSnap Role = 4
)

// Class says which kind of node may sign an event. It stands readable in the
// segment header, so it tells no more than that.
type Class uint8

// The classes. Zero is invalid.
const (
	ClassAcceptance Class = 1 // mail accepted from the network, and its repudiation
	ClassDelivery   Class = 2 // intents, outcomes, upstream health
	ClassMailbox    Class = 3 // what users do to their mailboxes
	ClassSettings   Class = 4 // tenants, domains, users, overrides, audit of administrators
	ClassPosted     Class = 5 // generic messages of the bus
	// ClassCheckpoint is of no event: a node that may sign it may sign
	// checkpoints of the log.
	ClassCheckpoint Class = 6
	ClassRetention  Class = 7 // expiry, holds, erasure, bases
)

// Classes is a set of classes: bit n stands for class n.
type Classes uint16

// ClassesOf returns the set of the given classes.
func ClassesOf(cs ...Class) (s Classes) {
	for _, c := range cs {
		s |= 1 << c
	}
	return s
}

// AllClasses is every class of events defined by this version.
var AllClasses = ClassesOf(ClassAcceptance, ClassDelivery, ClassMailbox, ClassSettings, ClassPosted, ClassRetention)

// Has reports whether c is in the set.
func (s Classes) Has(c Class) bool { return c != 0 && c < 16 && s&(1<<c) != 0 }
