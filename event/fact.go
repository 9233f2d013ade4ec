package event

import (
	"fmt"
	"reflect"

	"github.com/fxamacker/cbor/v2"
)

// Kind names what happened. It is sealed with the fact; the segment header
// shows only its [Class]. Numbers are never reused, zero is invalid.
type Kind uint16

// The kinds of this version.
const (
	KindMessageAccepted Kind = 1
	KindRepudiated      Kind = 2

	KindDeliveryIntended  Kind = 10
	KindDeliverySettled   Kind = 11
	KindHealthChanged     Kind = 12
	KindRedeliveryOrdered Kind = 13

	KindMailboxCreated    Kind = 20
	KindMailboxDeleted    Kind = 21
	KindMailboxRenamed    Kind = 22
	KindMailboxSubscribed Kind = 23
	KindFlagsChanged      Kind = 24
	KindExpunged          Kind = 25
	KindCopied            Kind = 26
	KindAppended          Kind = 27

	KindTenantCreated Kind = 40
	KindDomainClaimed Kind = 41
	KindDomainSet     Kind = 42
	KindDomainRemoved Kind = 43
	KindUserSet       Kind = 44
	KindUserRemoved   Kind = 45
	KindFailoverSet   Kind = 46
	KindAudited       Kind = 47
	KindKeysBackedUp  Kind = 48
	KindAdopted       Kind = 49

	KindPosted      Kind = 60
	KindCursorMoved Kind = 61

	KindDayCondemned     Kind = 70
	KindKept             Kind = 71
	KindDayExpired       Kind = 72
	KindRatchetMoved     Kind = 73
	KindDayRemoved       Kind = 74
	KindObjectsCondemned Kind = 75
	KindHoldPlaced       Kind = 76
	KindHoldReleased     Kind = 77
	KindErasureOrdered   Kind = 78
	KindErased           Kind = 79
	KindTenantEnded      Kind = 80
	KindBaseTaken        Kind = 81
	KindDaySwept         Kind = 82
	KindTenantEndOrdered Kind = 83
	KindTenantCondemned  Kind = 84
)

// Fact is one thing that happened, without its place in the log. The concrete
// type is a pointer to one of this package's structs.
type Fact interface {
	Kind() Kind
	Class() Class
}

// withMeta is a fact that also has a mail-derived part, sealed apart from the
// rest so that it dies with the mail. metaPart returns a pointer to the field
// that points to it.
type withMeta interface {
	Fact
	metaPart() any
}

// Event is a fact on its way into the log.
type Event struct {
	// ID is minted when the event begins. Required.
	ID ID
	// Tenant whose keys seal the event and whose partition holds it. Required.
	Tenant Tenant
	// Expiry is the day under whose key the mail-derived part and the body are
	// sealed. Zero for a fact that has neither.
	Expiry Day
	// Fact is what happened. Required.
	Fact Fact
	// Body is the message's own bytes, as the log's body writer returned them.
	// Nil for a fact without a body.
	Body Body
}

// Body is a sealed body that waits for its event. Only package eventlog makes
// and reads it.
type Body interface {
	// PlainSize is the number of bytes of the message.
	PlainSize() int64
}

// maxNested and the limits below bound what a decoder of this package will
// build from hostile bytes.
const (
	maxNested   = 64
	maxElements = 1 << 17
)

// modes are the encoder and decoder of every value in the log. They are
// immutable after construction.
var encMode, decMode = modes()

func modes() (cbor.EncMode, cbor.DecMode) {
	eo := cbor.CoreDetEncOptions()
	enc, err := eo.EncMode()
	if err != nil {
		panic("internal error: " + err.Error())
	}
	dec, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  maxNested,
		MaxArrayElements: maxElements,
		MaxMapPairs:      maxElements,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		UTF8:             cbor.UTF8DecodeInvalid,
	}.DecMode()
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return enc, dec
}

// Marshal encodes a value as deterministic CBOR. It panics when v is of a type
// that cannot be encoded, which is a defect of the caller.
func Marshal(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic("internal error: encode " + reflect.TypeOf(v).String() + ": " + err.Error())
	}
	return b
}

// Unmarshal decodes what [Marshal] wrote. The error wraps [ErrMalformed].
func Unmarshal(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, ErrMalformed)
	}
	return nil
}

// Encode returns the long-lived and the mail-derived part of a fact; meta is
// nil when it has none. The long-lived part is the CBOR array [kind, fact].
func Encode(f Fact) (state, meta []byte) {
	state = Marshal(struct {
		_    struct{} `cbor:",toarray"`
		Kind Kind
		Fact Fact
	}{Kind: f.Kind(), Fact: f})
	m, ok := f.(withMeta)
	if !ok {
		return state, nil
	}
	p := reflect.ValueOf(m.metaPart()).Elem()
	if p.IsNil() {
		return state, nil
	}
	return state, Marshal(p.Interface())
}

// ErrUnknownKind says that a fact of a kind this version does not know was met.
// A fold must stop there: what it skipped might change everything after.
var ErrUnknownKind = fmt.Errorf("fact of an unknown kind, written by a newer version: %w", ErrMalformed)

// Decode is the inverse of [Encode]. A nil meta leaves the fact's mail-derived
// part nil: it has expired, or it never had one. The error wraps
// [ErrMalformed], and [ErrUnknownKind] for a kind of a newer version.
func Decode(state, meta []byte) (Fact, error) {
	var raw struct {
		_    struct{} `cbor:",toarray"`
		Kind Kind
		Fact cbor.RawMessage
	}
	if err := Unmarshal(state, &raw); err != nil {
		return nil, err
	}
	f := newFact(raw.Kind)
	if f == nil {
		return nil, fmt.Errorf("kind %d: %w", raw.Kind, ErrUnknownKind)
	}
	if err := Unmarshal(raw.Fact, f); err != nil {
		return nil, err
	}
	if meta == nil {
		return f, nil
	}
	m, ok := f.(withMeta)
	if !ok {
		return nil, fmt.Errorf("kind %d has no mail-derived part, but one was found: %w", raw.Kind, ErrMalformed)
	}
	if err := Unmarshal(meta, m.metaPart()); err != nil {
		return nil, err
	}
	return f, nil
}

func newFact(k Kind) Fact {
	switch k {
	case KindMessageAccepted:
		return new(MessageAccepted)
	case KindRepudiated:
		return new(Repudiated)
	case KindDeliveryIntended:
		return new(DeliveryIntended)
	case KindDeliverySettled:
		return new(DeliverySettled)
	case KindHealthChanged:
		return new(HealthChanged)
	case KindRedeliveryOrdered:
		return new(RedeliveryOrdered)
	case KindMailboxCreated:
		return new(MailboxCreated)
	case KindMailboxDeleted:
		return new(MailboxDeleted)
	case KindMailboxRenamed:
		return new(MailboxRenamed)
	case KindMailboxSubscribed:
		return new(MailboxSubscribed)
	case KindFlagsChanged:
		return new(FlagsChanged)
	case KindExpunged:
		return new(Expunged)
	case KindCopied:
		return new(Copied)
	case KindAppended:
		return new(Appended)
	default:
		return newSetting(k)
	}
}

func newSetting(k Kind) Fact {
	switch k {
	case KindTenantCreated:
		return new(TenantCreated)
	case KindDomainClaimed:
		return new(DomainClaimed)
	case KindDomainSet:
		return new(DomainSet)
	case KindDomainRemoved:
		return new(DomainRemoved)
	case KindUserSet:
		return new(UserSet)
	case KindUserRemoved:
		return new(UserRemoved)
	case KindFailoverSet:
		return new(FailoverSet)
	case KindAudited:
		return new(Audited)
	case KindKeysBackedUp:
		return new(KeysBackedUp)
	case KindAdopted:
		return new(Adopted)
	case KindPosted:
		return new(Posted)
	case KindCursorMoved:
		return new(CursorMoved)
	}
	return newRetention(k)
}

func newRetention(k Kind) Fact {
	switch k {
	case KindDayCondemned:
		return new(DayCondemned)
	case KindKept:
		return new(Kept)
	case KindDayExpired:
		return new(DayExpired)
	case KindRatchetMoved:
		return new(RatchetMoved)
	case KindDayRemoved:
		return new(DayRemoved)
	case KindObjectsCondemned:
		return new(ObjectsCondemned)
	case KindHoldPlaced:
		return new(HoldPlaced)
	case KindHoldReleased:
		return new(HoldReleased)
	case KindErasureOrdered:
		return new(ErasureOrdered)
	case KindErased:
		return new(Erased)
	case KindTenantEnded:
		return new(TenantEnded)
	case KindBaseTaken:
		return new(BaseTaken)
	case KindDaySwept:
		return new(DaySwept)
	case KindTenantEndOrdered:
		return new(TenantEndOrdered)
	case KindTenantCondemned:
		return new(TenantCondemned)
	}
	return nil
}
