package check

import (
	"bytes"
	"time"
)

// Bounds are how long things may take when nothing fails.
type Bounds struct {
	Accept  time.Duration // from the end of a message to its 250
	Command time.Duration // an IMAP command that changes something
	Look    time.Duration // SELECT and FETCH of a mailbox; IDLE, from sending to seeing
	Deliver time.Duration // from a 250 to the arrival at every primary
}

// Prompt judges calm weather: mail that was sent then has arrived, in time, for
// every recipient. A lone message in an idle world is what a lost wake-up leaves
// lying.
func Prompt(h *History, bound Bounds) []Finding {
	c := &court{rule: "at rest"}
	for i := range h.Transactions {
		tx := &h.Transactions[i]
		if !tx.Calm || tx.Code/100 != 2 {
			continue
		}
		left := map[string]bool{}
		for _, to := range tx.To {
			left[to] = true
		}
		by := tx.Began.Add(bound.Accept + bound.Deliver)
		for j := range h.Arrivals {
			a := &h.Arrivals[j]
			if a.Time.After(by) || !bytes.Contains(a.Body, []byte(tx.Letter)) {
				continue
			}
			for _, to := range a.To {
				delete(left, to)
			}
		}
		for _, to := range tx.To {
			if left[to] {
				c.finds("transaction %s, sent in calm weather, did not come to %s within %v", tx.Mark, to, bound.Accept+bound.Deliver)
			}
		}
	}
	return c.found
}
