package delivery

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"holdfast/event"
	"holdfast/internal/sabotage"
	"holdfast/projection"
)

// The ledger counts units as facts about them are folded: how many were
// accepted, and how many came to which end. It is the half of the balance sheet
// that the queue has no part in; see [Sheet] for the other half and for what
// each number means.
//
//	b <tenant 16> <kind> <len> <route> <day 4>   one account: account
//
// A unit belongs to the account of the day on which it was accepted, for ever:
// its row says which that is. Accounts of long ago in which all units have come to
// their end are put together, in that of day 0: then it is what they belong to.
const keyAccount = 'b'

// accountsApart is for how many days accounts are kept apart.
const accountsApart = 100

// Kinds of account. Zero is invalid.
const (
	kindMail  = 1 // units of messages
	kindAgain = 2 // units that redelivery orders made
)

// account is what was counted for one route and day.
type account struct {
	Accepted   uint64 `cbor:"1,keyasint,omitempty"` // units, among them those repudiated since
	Notices    uint64 `cbor:"2,keyasint,omitempty"` // of them, of bounces made here
	Repudiated uint64 `cbor:"3,keyasint,omitempty"` // units taken back before they had come to an end
	Delivered  uint64 `cbor:"4,keyasint,omitempty"`
	Uncertain  uint64 `cbor:"5,keyasint,omitempty"` // of the delivered, perhaps twice
	Bounced    uint64 `cbor:"6,keyasint,omitempty"`
	Expired    uint64 `cbor:"7,keyasint,omitempty"`
	Erased     uint64 `cbor:"8,keyasint,omitempty"`
	// Through is the last day that is in the account, of one of several days.
	Through event.Day `cbor:"9,keyasint,omitempty"`
}

// ended reports that all units have come to their end.
func (a *account) ended() bool {
	return a.Accepted-a.Repudiated == a.Delivered+a.Bounced+a.Expired+a.Erased
}

func (a *account) add(b *account) {
	a.Accepted += b.Accepted
	a.Notices += b.Notices
	a.Repudiated += b.Repudiated
	a.Delivered += b.Delivered
	a.Uncertain += b.Uncertain
	a.Bounced += b.Bounced
	a.Expired += b.Expired
	a.Erased += b.Erased
}

// post changes the account that a unit belongs to.
func post(tx projection.Txn, w *row, change func(*account)) error {
	key := accountKey(w, w.Day)
	a, err := getAccount(tx, key)
	if err != nil {
		return err
	}
	if a == nil {
		earlier := accountKey(w, 0)
		if a, err = getAccount(tx, earlier); err != nil {
			return err
		}
		if a != nil && w.Day <= a.Through {
			key = earlier
		} else {
			a = &account{}
			if err := closeBooks(tx, w); err != nil {
				return err
			}
		}
	}
	change(a)
	tx.Set(key, event.Marshal(a))
	return nil
}

// getAccount returns nil when there is none.
func getAccount(v projection.View, key []byte) (*account, error) {
	raw, err := v.Get(key)
	if err != nil || raw == nil {
		return nil, err
	}
	a := new(account)
	return a, event.Unmarshal(raw, a)
}

// closeBooks puts together what is long before the day of a unit with which a new
// account begins.
func closeBooks(tx projection.Txn, w *row) error {
	first := accountKey(w, 0)
	all, err := getAccount(tx, first)
	if err != nil {
		return err
	}
	if all == nil {
		all = &account{}
	}
	var gone [][]byte
	last := accountKey(w, max(w.Day-accountsApart, 0))
	for it, err := range tx.Scan(first[:len(first)-4], nil, false) {
		if err != nil {
			return err
		}
		if bytes.Compare(it.Key, last) >= 0 {
			break
		}
		var a account
		if err := event.Unmarshal(it.Value, &a); err != nil {
			return err
		}
		if bytes.Equal(it.Key, first) || !a.ended() {
			continue
		}
		_, day, _, err := parseAccountKey(it.Key)
		if err != nil {
			return err
		}
		all.add(&a)
		all.Through = max(all.Through, day)
		gone = append(gone, bytes.Clone(it.Key))
	}
	if len(gone) == 0 {
		return nil
	}
	for _, k := range gone {
		tx.Delete(k)
	}
	tx.Set(first, event.Marshal(all))
	return nil
}

// postEnd counts the outcome that ends a unit.
func postEnd(tx projection.Txn, w *row, o event.Outcome) error {
	if sabotage.On(sabotage.LedgerSlip) && w.Message.ID[0]%4 == 0 {
		return nil
	}
	return post(tx, w, func(a *account) {
		switch o.Result {
		case event.ResultDelivered:
			a.Delivered++
			if o.Uncertain {
				a.Uncertain++
			}
		case event.ResultBounced:
			a.Bounced++
		case event.ResultExpired:
			a.Expired++
		case event.ResultErased:
			a.Erased++
		default:
			panic("internal error: an end that is none: " + o.Result.String())
		}
	})
}

// postDoubt counts that a unit which had ended is uncertain.
func postDoubt(tx projection.Txn, w *row) error {
	return post(tx, w, func(a *account) {
		a.Uncertain++
		switch w.End {
		case event.ResultBounced:
			a.Bounced--
			a.Delivered++
		case event.ResultExpired:
			a.Expired--
			a.Delivered++
		case event.ResultErased:
			a.Erased--
			a.Delivered++
		}
	})
}

// accountKey is that of a unit's account of a day.
func accountKey(w *row, day event.Day) []byte {
	kind := byte(kindMail)
	if w.Again {
		kind = kindAgain
	}
	k := append([]byte{keyAccount}, w.Tenant[:]...)
	k = append(append(k, kind, byte(len(w.Route))), w.Route...)
	return binary.BigEndian.AppendUint32(k, uint32(day))
}

// entryOf is the value of a unit's entry in the queue: the unit, and to which
// account it belongs, so that the sheet needs no look at each row; and when it
// expires, so that nobody looks at the rows of all for the few whose day has come.
func entryOf(u event.Unit, w *row) []byte {
	b := binary.BigEndian.AppendUint32(appendUnit(make([]byte, 0, entryLen), u), uint32(w.Day))
	kind := byte(kindMail)
	if w.Again {
		kind = kindAgain
	}
	return binary.BigEndian.AppendUint32(append(b, kind), uint32(w.Expiry))
}

const entryLen = unitLen + 9

// parseEntry reads what entryOf adds to the unit.
func parseEntry(b []byte) (day event.Day, again bool, err error) {
	if len(b) != entryLen || b[unitLen+4] != kindMail && b[unitLen+4] != kindAgain {
		return 0, false, fmt.Errorf("queue entry of %d bytes: %w", len(b), event.ErrMalformed)
	}
	return event.Day(int32(binary.BigEndian.Uint32(b[unitLen:]))), b[unitLen+4] == kindAgain, nil
}

// expiryOf reads from an entry when its unit expires.
func expiryOf(b []byte) (event.Day, error) {
	if len(b) != entryLen {
		return 0, fmt.Errorf("queue entry of %d bytes: %w", len(b), event.ErrMalformed)
	}
	return event.Day(int32(binary.BigEndian.Uint32(b[unitLen+5:]))), nil
}

// parseAccountKey is the inverse of accountKey.
func parseAccountKey(k []byte) (route string, day event.Day, again bool, err error) {
	const fixed = 1 + 16 + 1 + 1
	if len(k) < fixed+4 || len(k) != fixed+int(k[fixed-1])+4 || k[fixed-2] != kindMail && k[fixed-2] != kindAgain {
		return "", 0, false, fmt.Errorf("account key of %d bytes: %w", len(k), event.ErrMalformed)
	}
	return string(k[fixed : len(k)-4]), event.Day(int32(binary.BigEndian.Uint32(k[len(k)-4:]))), k[fixed-2] == kindAgain, nil
}
