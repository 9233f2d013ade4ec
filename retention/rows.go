package retention

import (
	"encoding/binary"
	"fmt"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// The rows of the projection:
//
//	t <tenant>                        tenantRow
//	h <tenant> <name>                 holdRow
//	o <tenant> <order>                orderRow: an order that is not done
//	e <tenant> <message>              erasedRow: erased a short while ago
//	f <tenant> <id>                   event.Ref: the certificate with this id or of this order
//	k <tenant> <message> <copy>       copyRow: a copy of a kept message that lives
//	d <tenant> <day> <message> <copy> the same by the day on which it expires
//	m <tenant> <copy>                 which message it is a copy of
//	b <day> <event>                   an event whose body may have objects
//	c <tenant> <day> <event>          the same by tenant
//	i                                 installRow
//	n <tenant>                        endingRow: the tenant is to end
//	x <tenant>                        endedRow: it is condemned, or has ended
//	a <version 4> <projection>        baseRow: the newest Bases
//	z <tenant>                        position of the last erasure
//	p <tenant>                        position of the first message of the bus
//	w <tenant>                        sweepRow: rows of expired days are left
const (
	keyTenant     = 't'
	keyHold       = 'h'
	keyOrder      = 'o'
	keyErased     = 'e'
	keyCertified  = 'f'
	keyCopy       = 'k'
	keyCopyDay    = 'd'
	keyMessage    = 'm'
	keyBody       = 'b'
	keyTenantBody = 'c'
	keyInstall    = 'i'
	keyEnding     = 'n'
	keyEnded      = 'x'
	keyBase       = 'a'
	keyErasedAt   = 'z'
	keyPosted     = 'p'
	keySweep      = 'w'
)

// present is the value of a row that says all by being there.
var present = []byte{1}

type tenantRow struct {
	Condemned event.Day    `cbor:"1,keyasint,omitempty"`
	At        event.Millis `cbor:"2,keyasint,omitempty"` // when that was condemned
	Expired   event.Day    `cbor:"3,keyasint,omitempty"`
	// Pending is since when a condemned day has not expired; 0 for none.
	Pending event.Millis `cbor:"4,keyasint,omitempty"`
	// Changes is how often holds were placed and released.
	Changes     uint64 `cbor:"5,keyasint,omitempty"`
	Erased      uint64 `cbor:"6,keyasint,omitempty"` // messages
	ErasedBytes uint64 `cbor:"7,keyasint,omitempty"`
}

type holdRow struct {
	Placed event.HoldPlaced `cbor:"1,keyasint"`
	// After is the last day that was condemned when the hold was placed: it
	// holds what expires later.
	After event.Day `cbor:"2,keyasint,omitempty"`
}

type orderRow struct {
	Order event.ErasureOrdered `cbor:"1,keyasint"`
}

type erasedRow struct {
	Order event.ID  `cbor:"1,keyasint"`
	Day   event.Day `cbor:"2,keyasint"` // on which it was erased
}

type copyRow struct {
	Ref    event.Ref `cbor:"1,keyasint"`
	From   event.Ref `cbor:"2,keyasint"`
	Expiry event.Day `cbor:"3,keyasint"`
}

// sweepRow is there while rows of days that have expired are left.
type sweepRow struct {
	From []byte `cbor:"1,keyasint,omitempty"` // the last that was dropped
}

type installRow struct {
	Ratchet   event.Day    `cbor:"1,keyasint,omitempty"`
	RatchetAt event.Millis `cbor:"2,keyasint,omitempty"`
	Removed   event.Day    `cbor:"3,keyasint,omitempty"` // the last day whose objects were removed
	Days      uint64       `cbor:"4,keyasint,omitempty"`
	Objects   uint64       `cbor:"5,keyasint,omitempty"`
	Bytes     uint64       `cbor:"6,keyasint,omitempty"`
	Locked    uint64       `cbor:"7,keyasint,omitempty"`
}

type endingRow struct {
	Order event.TenantEndOrdered `cbor:"1,keyasint"`
	// Last: nothing of the tenant comes any more.
	Last bool `cbor:"2,keyasint,omitempty"`
}

type endedRow struct {
	Condemned event.TenantCondemned `cbor:"1,keyasint"`
	By        event.Ref             `cbor:"2,keyasint"` // where that stands
	// Done is nil until the tenant's keys are gone.
	Done *event.TenantEnded `cbor:"3,keyasint,omitempty"`
	At   event.Ref          `cbor:"4,keyasint,omitzero"` // where that stands
}

type baseRow struct {
	Bases []eventlog.Base `cbor:"1,keyasint"` // the newest first
}

func dayOf(m event.Millis) event.Day { return event.DayOf(time.UnixMilli(int64(m))) }

// getRow reports whether the row is there.
func getRow(v projection.View, key []byte, into any) (bool, error) {
	b, err := v.Get(key)
	if err != nil || b == nil {
		return false, err
	}
	return true, event.Unmarshal(b, into)
}

// put joins the parts of a key.
func put(tag byte, parts ...[]byte) []byte {
	k := []byte{tag}
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}

// dayBytes keeps the order of days, all of which are after 1970.
func dayBytes(d event.Day) []byte { return binary.BigEndian.AppendUint32(nil, uint32(d)) }

func tenantPrefix(tag byte, t event.Tenant) []byte { return put(tag, t[:]) }

func tenantDayPrefix(tag byte, t event.Tenant, d event.Day) []byte {
	return put(tag, t[:], dayBytes(d))
}

func tenantKey(t event.Tenant) []byte            { return put(keyTenant, t[:]) }
func holdKey(t event.Tenant, name string) []byte { return put(keyHold, t[:], []byte(name)) }
func orderKey(t event.Tenant, id event.ID) []byte {
	return put(keyOrder, t[:], id[:])
}

func sweepKey(t event.Tenant) []byte { return put(keySweep, t[:]) }

func erasedKey(t event.Tenant, message event.ID) []byte {
	return put(keyErased, t[:], message[:])
}

func certifiedKey(t event.Tenant, id event.ID) []byte { return put(keyCertified, t[:], id[:]) }

func copyPrefix(t event.Tenant, message event.ID) []byte {
	return put(keyCopy, t[:], message[:])
}

func copyKey(t event.Tenant, message, id event.ID) []byte {
	return put(keyCopy, t[:], message[:], id[:])
}

func copyDayKey(t event.Tenant, d event.Day, message, id event.ID) []byte {
	return put(keyCopyDay, t[:], dayBytes(d), message[:], id[:])
}

func messageKey(t event.Tenant, id event.ID) []byte { return put(keyMessage, t[:], id[:]) }
func bodyKey(d event.Day, id event.ID) []byte       { return put(keyBody, dayBytes(d), id[:]) }

func tenantBodyKey(t event.Tenant, d event.Day, id event.ID) []byte {
	return put(keyTenantBody, t[:], dayBytes(d), id[:])
}

func baseKey(projection string, version uint32) []byte {
	return put(keyBase, binary.BigEndian.AppendUint32(nil, version), []byte(projection))
}

func installKey() []byte              { return []byte{keyInstall} }
func endingKey(t event.Tenant) []byte { return put(keyEnding, t[:]) }
func endedKey(t event.Tenant) []byte  { return put(keyEnded, t[:]) }

func errKey(what string, k []byte) error {
	return fmt.Errorf("%s key of %d bytes: %w", what, len(k), event.ErrMalformed)
}

func parseCopyDayKey(k []byte) (d event.Day, message, id event.ID, err error) {
	if len(k) != 1+16+4+16+16 {
		return 0, message, id, errKey("copy", k)
	}
	return event.Day(binary.BigEndian.Uint32(k[17:])), event.ID(k[21:37]), event.ID(k[37:]), nil
}

func parseTenantBodyKey(k []byte) (d event.Day, id event.ID, err error) {
	if len(k) != 1+16+4+16 {
		return 0, id, errKey("body", k)
	}
	return event.Day(binary.BigEndian.Uint32(k[17:])), event.ID(k[21:]), nil
}
