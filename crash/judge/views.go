package judge

import (
	"slices"
	"strings"
)

// box is what the user must see in a mailbox.
type box struct {
	validity, next uint32
	seen           map[uint32]*known
	appended       []string // numbers of confirmed appends, which must be there
}

// known is a message that was seen once.
type known struct {
	number      string
	flags       map[string]bool // true: confirmed; false: asked for, and not answered
	gone        bool            // an expunge was confirmed
	perhapsGone bool
}

// checkViews: what the user was shown stays so over every kill. UIDVALIDITY is the
// same, UIDNEXT never falls, a UID is the same message for ever, a new message has a
// UID at or above the UIDNEXT shown before; what was confirmed is done, what was
// refused is not; and a view shows every message that got 250 before it began.
func (v *verdict) checkViews() {
	boxes := map[string]*box{}
	for i := range v.rec.Steps {
		s := &v.rec.Steps[i]
		b := boxes[s.Mailbox]
		if b == nil {
			b = &box{seen: map[uint32]*known{}}
			boxes[s.Mailbox] = b
		}
		switch s.Kind {
		case View:
			if s.OK {
				v.checkView(b, s)
			}
		case Flag:
			if k := b.seen[s.UID]; k != nil && !s.No {
				k.flags[s.Flags] = k.flags[s.Flags] || s.OK
			}
		case Expunge:
			if k := b.seen[s.UID]; k != nil && !s.No {
				k.gone = k.gone || s.OK
				k.perhapsGone = true
			}
		case Append:
			if s.OK {
				b.appended = append(b.appended, s.Number)
			}
		}
	}
}

func (v *verdict) checkView(b *box, s *Step) {
	if b.validity != 0 && s.UIDValidity != b.validity {
		v.complain("%s: UIDVALIDITY was %d and is %d", s.Mailbox, b.validity, s.UIDValidity)
	}
	if s.UIDNext < b.next {
		v.complain("%s: UIDNEXT was %d and is %d", s.Mailbox, b.next, s.UIDNext)
	}
	for uid, m := range s.Messages {
		k := b.seen[uid]
		if k == nil {
			if uid < b.next {
				v.complain("%s: UID %d is new, and UIDNEXT was %d before", s.Mailbox, uid, b.next)
			}
			k = &known{number: m.Number, flags: map[string]bool{}}
			for _, f := range strings.Fields(m.Flags) {
				k.flags[f] = true
			}
			b.seen[uid] = k
		}
		if k.number != m.Number {
			v.complain("%s: UID %d was message %s and is message %s", s.Mailbox, uid, k.number, m.Number)
		}
		if k.gone {
			v.complain("%s: UID %d was expunged and is there", s.Mailbox, uid)
		}
		k.checkFlags(v, s, uid, m.Flags)
	}
	for uid, k := range b.seen {
		if _, there := s.Messages[uid]; there {
			continue
		}
		if !k.perhapsGone && !v.mayVanish(s, k.number) {
			v.complain("%s: UID %d (message %s) was there and is not", s.Mailbox, uid, k.number)
		}
		k.gone = true // and it does not come back
	}
	v.checkShown(s)
	b.validity, b.next = s.UIDValidity, s.UIDNext
	v.checkComplete(b, s)
}

func (k *known) checkFlags(v *verdict, s *Step, uid uint32, now string) {
	have := strings.Fields(now)
	for f, sure := range k.flags {
		if sure && !slices.Contains(have, f) {
			v.complain("%s: UID %d had the flag %s for certain and has %q", s.Mailbox, uid, f, now)
		}
	}
	for _, f := range have {
		if _, asked := k.flags[f]; !asked {
			v.complain("%s: UID %d has the flag %s, which nobody set", s.Mailbox, uid, f)
		}
		k.flags[f] = true // what was seen stays
	}
}

// checkComplete: everything that got 250 before the view began is in INBOX unless
// the user removed it, and every confirmed append is where it went.
func (v *verdict) checkComplete(b *box, s *Step) {
	numbers := map[string]int{}
	for uid, k := range b.seen {
		_, there := s.Messages[uid]
		if there || k.gone {
			numbers[k.number]++
		}
	}
	for n, times := range numbers {
		if times > 1 {
			v.complain("%s: message %s has %d UIDs", s.Mailbox, n, times)
		}
	}
	if s.Mailbox == "INBOX" {
		for i := range v.rec.Sent {
			m := &v.rec.Sent[i]
			if m.Answer == Kept && m.Heard < s.Began && slices.Contains(m.To, User) && numbers[m.Number()] == 0 && !v.mayVanish(s, m.Number()) {
				v.complain("INBOX: message %d got 250 before the view and is not in it", m.N)
			}
		}
	}
	for _, n := range b.appended {
		if numbers[n] == 0 {
			v.complain("%s: the appended message %s is not there", s.Mailbox, n)
		}
	}
}
