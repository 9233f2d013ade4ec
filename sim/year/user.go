package year

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/e2e/outside"
	"holdfast/event"
	"holdfast/sim/residue"
)

// boxNames are the mailboxes that users use. The last is one that they made.
var boxNames = []string{"INBOX", "Sent", "Trash", "Archive", "Papers"}

// session is a user's visit.
type session struct {
	w    *World
	user string
	m    *outside.Mailbox
}

func (w *World) visit(user string, k *keeper, do func(*session) error) error {
	conn, err := w.net.Dialer(nil)(context.Background(), "tcp", k.name+":143")
	if err != nil {
		return err
	}
	m, err := outside.OpenIMAP(conn, user, password, 10*time.Minute)
	if err != nil {
		return fmt.Errorf("%s at %s: %w", user, k.name, err)
	}
	defer m.Close()
	if err := do(&session{w, user, m}); err != nil {
		return fmt.Errorf("%s at %s: %w", user, k.name, err)
	}
	return nil
}

// look looks at a mailbox and judges what is there. Bodies that were read before
// are read again only if bodies says so.
func (s *session) look(name string, bodies bool) error {
	v, err := s.m.Look(name, bodies)
	if err != nil {
		if _, no := err.(*outside.NoError); no && name == "Papers" {
			_, err = s.m.Do(`CREATE "Papers"`)
		}
		return err
	}
	b := s.w.ledger.box(s.user, name)
	if b.validity != 0 && b.validity != v.UIDValidity || v.UIDNext < b.next {
		s.w.finds("uids", "%s: %s had UIDVALIDITY %d and UIDNEXT %d, and has %d and %d", s.user, name, b.validity, b.next, v.UIDValidity, v.UIDNext)
	}
	for _, uid := range slices.Sorted(maps.Keys(v.Messages)) {
		seen := v.Messages[uid]
		if c := b.messages[uid]; !bodies && c != nil {
			s.stays(name, uid, c, seen)
			continue
		}
		if !bodies {
			if seen.Body, err = s.fetch(uid); err != nil {
				return err
			}
		}
		s.see(name, b, uid, seen)
	}
	for _, uid := range slices.Sorted(maps.Keys(b.messages)) {
		if _, there := v.Messages[uid]; there {
			continue
		}
		// Who has filed it sees it; in any mailbox it is seen through its day.
		if c := b.messages[uid]; s.w.ledger.readable(c.l) && (c.filed(name) || c.l.expiry > s.w.ledger.done) {
			s.w.finds("kept", "%s: UID %d of %s has gone: %s", s.user, uid, name, c.l.tell())
		}
		delete(b.messages, uid)
	}
	b.validity, b.next = v.UIDValidity, v.UIDNext
	return nil
}

// fetch reads one message of the selected mailbox.
func (s *session) fetch(uid uint32) ([]byte, error) {
	lines, err := s.m.Do(fmt.Sprintf("UID FETCH %d (BODY.PEEK[])", uid))
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		if len(l.Literals) > 0 {
			return l.Literals[0], nil
		}
	}
	return nil, nil
}

// stays judges a message that was seen before.
func (s *session) stays(name string, uid uint32, c *copied, seen outside.Seen) {
	if s.w.ledger.gone(c.l) {
		s.w.finds("gone", "%s: UID %d of %s is still there: %s", s.user, uid, name, c.l.tell())
	}
	flags := strings.Fields(seen.Flags)
	if want := slices.Sorted(maps.Keys(c.flags)); !slices.Equal(want, slices.Sorted(slices.Values(flags))) {
		s.w.finds("flags", "%s: UID %d of %s has flags %q and had %q", s.user, uid, name, flags, want)
	}
}

// see judges one message of a mailbox, and its bytes.
func (s *session) see(name string, b *box, uid uint32, seen outside.Seen) {
	header, _, _ := bytes.Cut(seen.Body, []byte("\r\n\r\n"))
	marks := residue.MarksIn(header)
	if len(marks) != 1 || s.w.ledger.letters[marks[0]] == nil {
		s.w.finds("uids", "%s: UID %d of %s is nothing that was sent: %q", s.user, uid, name, header)
		return
	}
	l := s.w.ledger.letters[marks[0]]
	if old, ok := b.past[uid]; ok && old != l.mark {
		s.w.finds("uids", "%s: UID %d of %s was %s and is %s", s.user, uid, name, old, l.mark)
	}
	if !bytes.HasSuffix(seen.Body, l.body) || len(seen.Body) > len(l.body)+1000 {
		s.w.finds("kept", "%s: UID %d of %s is not as it was sent: %d bytes of %d: %s", s.user, uid, name, len(seen.Body), len(l.body), l.tell())
	}
	c := b.messages[uid]
	if c == nil {
		if _, ok := b.past[uid]; ok {
			s.w.finds("uids", "%s: UID %d of %s is back: %s", s.user, uid, name, l.tell())
		} else if uid < b.next {
			s.w.finds("uids", "%s: UID %d of %s is new, below UIDNEXT %d: %s", s.user, uid, name, b.next, l.tell())
		}
		c = &copied{l: l, flags: map[string]bool{}}
		b.messages[uid], b.past[uid] = c, l.mark
		for _, f := range strings.Fields(seen.Flags) {
			c.flags[f] = true
		}
	}
	s.stays(name, uid, c, seen)
}

// pick returns some UID of a mailbox, 0 if it is empty.
func (s *session) pick(name string) uint32 {
	uids := slices.Sorted(maps.Keys(s.w.ledger.box(s.user, name).messages))
	if len(uids) == 0 {
		return 0
	}
	return uids[s.w.rng.IntN(len(uids))]
}

// work looks at everything, and does what a user does on a day.
func (s *session) work(bodies bool) error {
	for _, name := range boxNames {
		if err := s.look(name, bodies); err != nil {
			return err
		}
	}
	for range 2 {
		if err := s.store("INBOX", s.pick("INBOX"), `\Seen`, true); err != nil {
			return err
		}
	}
	r := s.w.rng
	steps := []struct {
		percent int
		do      func() error
	}{
		{30, func() error { return s.store("INBOX", s.pick("INBOX"), `\Flagged`, true) }},
		{40, func() error { return s.unflag("INBOX") }},
		{40, func() error { return s.move("INBOX", "Archive", s.pick("INBOX"), true) }},
		{15, func() error { return s.move("INBOX", "Papers", s.pick("INBOX"), false) }},
		{55, func() error { return s.move("Archive", "Trash", s.pick("Archive"), true) }},
		{20, func() error { return s.move("Papers", "Trash", s.pick("Papers"), true) }},
		{30, func() error { return s.expunge("INBOX", s.pick("INBOX")) }},
		{20, func() error { return s.expunge("Trash", s.pick("Trash")) }},
		{15, func() error { return s.draft("Archive") }},
	}
	for _, st := range steps {
		if r.IntN(100) >= st.percent {
			continue
		}
		if err := st.do(); err != nil {
			return err
		}
	}
	return nil
}

// selected selects a mailbox in which something is to be done.
func (s *session) selected(name string) error {
	_, err := s.m.Do(fmt.Sprintf("SELECT %q", name))
	return err
}

func (s *session) store(name string, uid uint32, flag string, on bool) error {
	if uid == 0 {
		return nil
	}
	if err := s.selected(name); err != nil {
		return err
	}
	sign := map[bool]string{true: "+", false: "-"}[on]
	if _, err := s.m.Do(fmt.Sprintf("UID STORE %d %sFLAGS (%s)", uid, sign, flag)); err != nil {
		return err
	}
	if c := s.w.ledger.box(s.user, name).messages[uid]; on {
		c.flags[flag] = true
	} else {
		delete(c.flags, flag)
	}
	return nil
}

// unflag takes a flag away, from the oldest message that has it.
func (s *session) unflag(name string) error {
	return s.store(name, s.least(name, `\Flagged`), `\Flagged`, false)
}

// least returns the lowest UID with a flag, 0 if there is none.
func (s *session) least(name, flag string) uint32 {
	b := s.w.ledger.box(s.user, name)
	for _, uid := range slices.Sorted(maps.Keys(b.messages)) {
		if b.messages[uid].flags[flag] {
			return uid
		}
	}
	return 0
}

var copyUID = regexp.MustCompile(`\[COPYUID (\d+) (\d+) (\d+)\]`)

func (s *session) move(from, to string, uid uint32, away bool) error {
	if uid == 0 {
		return nil
	}
	if err := s.selected(from); err != nil {
		return err
	}
	verb := map[bool]string{true: "MOVE", false: "COPY"}[away]
	lines, err := s.m.Do(fmt.Sprintf("UID %s %d %q", verb, uid, to))
	if _, no := err.(*outside.NoError); no && to == "Papers" {
		_, err = s.m.Do(`CREATE "Papers"`)
		return err
	}
	if err != nil {
		return err
	}
	src, dst := s.w.ledger.box(s.user, from), s.w.ledger.box(s.user, to)
	c := src.messages[uid]
	for _, line := range lines {
		if m := copyUID.FindStringSubmatch(line.Text); m != nil {
			n, err := strconv.ParseUint(m[3], 10, 32)
			if err != nil {
				return err
			}
			dst.messages[uint32(n)] = &copied{l: c.l, flags: maps.Clone(c.flags)}
			dst.past[uint32(n)] = c.l.mark
		}
	}
	if away {
		delete(src.messages, uid)
	}
	return nil
}

func (s *session) expunge(name string, uid uint32) error {
	if uid == 0 {
		return nil
	}
	if err := s.store(name, uid, `\Deleted`, true); err != nil {
		return err
	}
	if _, err := s.m.Do(fmt.Sprintf("UID EXPUNGE %d", uid)); err != nil {
		return err
	}
	delete(s.w.ledger.box(s.user, name).messages, uid)
	return nil
}

// draft stores something of the user's own.
func (s *session) draft(name string) error {
	l := s.w.write(s.user, nil, 300)
	l.owner, l.tenant = s.user, domainOf(s.user).tenant
	l.expiry = l.day + event.Day(s.w.days[domainOf(s.user).name])
	if _, err := s.m.AppendUID(name, "()", l.body); err != nil {
		return err
	}
	return s.look(name, false)
}
