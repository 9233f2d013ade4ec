package continuity

import (
	"holdfast/event"
	"holdfast/projection"
)

// DropTenant implements projection.Ender: it removes the mailboxes. Sessions that are
// open see what they have seen; their mail opens no more.
func (fold) DropTenant(tx projection.Txn, t event.Tenant, d *projection.Dropper) error {
	var accounts []event.Account
	for it, err := range tx.Scan([]byte{keyAccount}, nil, false) {
		var row accountRow
		if err == nil {
			err = event.Unmarshal(it.Value, &row)
		}
		if err != nil {
			return err
		}
		if row.Tenant == t {
			accounts = append(accounts, event.Account(it.Key[1:]))
		}
	}
	for _, a := range accounts {
		// The account itself goes last: it says whose the rest is.
		for _, kind := range []byte{keyMessage, keyTombstone, keyCopy, keySubscribe, keyName, keyMailbox, keyAccount} {
			if done, err := d.Under(key(kind, a), nil); err != nil || !done {
				return err
			}
		}
	}
	for _, kind := range []byte{keyCondemned, keyExpired, keySweep, keyDay, keyAwait} {
		if done, err := d.Under(key(kind, event.Account(t)), nil); err != nil || !done {
			return err
		}
	}
	return nil
}
