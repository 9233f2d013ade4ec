package imapgwtest

import (
	"fmt"
	"slices"
	"time"

	"holdfast/continuity"
	"holdfast/event"
)

func (s *suite) copy() {
	a, b, c := s.put("INBOX", "a", `\Seen`), s.put("INBOX", "b", "Work"), s.put("INBOX", "c")
	s.put("Archive", "there already")
	box, dest := s.selected("INBOX"), s.selected("Archive")
	msgs := box.Snapshot()
	dest.Snapshot()
	res, err := box.Copy(s.ctx, []event.UIDRange{{First: c, Last: c + 9}, {First: a, Last: b}}, "Archive")
	s.must(err)
	if !slices.Equal(res.Source, []event.UID{a, b, c}) || len(res.Dest) != 3 || !slices.IsSorted(res.Dest) || res.UIDValidity != dest.Mailbox().UIDValidity {
		s.t.Fatalf("copied %+v", res)
	}
	s.heard(box, "")
	added := dest.Changes()
	if got, want := told(added), fmt.Sprintf("added %d, keywords [Work], added %d, added %d", res.Dest[0], res.Dest[1], res.Dest[2]); got != want {
		s.t.Fatalf("changes: %s\nwant:    %s", got, want)
	}
	first := added[0].Message
	if !slices.Equal(first.Flags, []string{`\Seen`}) || first.Date != msgs[0].Date || first.Size != msgs[0].Size || first.Email != msgs[0].Email {
		s.t.Errorf("copy %+v of %+v", first, msgs[0])
	}
	ix, err := dest.Index(s.ctx, first)
	s.must(err)
	if ix.Envelope.Subject != "a" {
		s.t.Errorf("subject %q", ix.Envelope.Subject)
	}
	_, err = box.Copy(s.ctx, one(a), "Nowhere")
	s.want(err, continuity.ErrNoMailbox)
	res, err = box.Copy(s.ctx, one(c+50), "Archive")
	s.must(err)
	if len(res.Source) != 0 || len(res.Dest) != 0 {
		s.t.Errorf("copied nothing as %+v", res)
	}
}

func (s *suite) move() {
	a, b := s.put("INBOX", "a", `\Flagged`), s.put("INBOX", "b")
	box, dest := s.selected("INBOX"), s.selected("Trash")
	box.Snapshot()
	dest.Snapshot()
	_, err := box.Move(s.ctx, one(a), "Nowhere")
	s.want(err, continuity.ErrNoMailbox)
	s.heard(box, "")
	res, err := box.Move(s.ctx, one(a), "Trash")
	s.must(err)
	if !slices.Equal(res.Source, []event.UID{a}) || len(res.Dest) != 1 {
		s.t.Fatalf("moved %+v", res)
	}
	s.heard(box, fmt.Sprintf("expunged %d", a))
	s.heard(dest, fmt.Sprintf("added %d", res.Dest[0]))
	left := s.selected("INBOX").Snapshot()
	if len(left) != 1 || left[0].UID != b {
		s.t.Errorf("left are %+v", left)
	}
}

func (s *suite) find(name string) (continuity.Mailbox, bool) {
	s.t.Helper()
	boxes, err := s.u.List(s.ctx)
	s.must(err)
	i := slices.IndexFunc(boxes, func(b continuity.Mailbox) bool { return b.Name == name })
	if i < 0 {
		return continuity.Mailbox{}, false
	}
	return boxes[i], true
}

func (s *suite) folders() {
	s.must(s.u.Create(s.ctx, "Projekte/2026", ""))
	s.must(s.u.Create(s.ctx, "Memos", `\Archive`))
	if b, ok := s.find("Projekte"); !ok || b.NonExistent {
		s.t.Error("the level above was not made")
	}
	if b, _ := s.find("Memos"); b.Use != `\Archive` {
		s.t.Errorf("use %q", b.Use)
	}
	s.want(s.u.Create(s.ctx, "Memos", ""), continuity.ErrExists)
	s.want(s.u.Create(s.ctx, "INBOX", ""), continuity.ErrExists)
	s.want(s.u.Create(s.ctx, "a//b", ""), continuity.ErrBadName)
	s.want(s.u.Create(s.ctx, "", ""), continuity.ErrBadName)
	s.want(s.u.Delete(s.ctx, "INBOX"), continuity.ErrInbox)
	s.want(s.u.Delete(s.ctx, "Nowhere"), continuity.ErrNoMailbox)
	s.want(s.u.Rename(s.ctx, "Nowhere", "x"), continuity.ErrNoMailbox)
	s.want(s.u.Rename(s.ctx, "Memos", "Sent"), continuity.ErrExists)
	_, err := s.u.Select(s.ctx, "Nowhere")
	s.want(err, continuity.ErrNoMailbox)
	_, err = s.u.Status(s.ctx, "Nowhere")
	s.want(err, continuity.ErrNoMailbox)

	s.must(s.u.Subscribe(s.ctx, "Later", true))
	if b, ok := s.find("Later"); !ok || !b.NonExistent || !b.Subscribed {
		s.t.Errorf("only subscribed: %v %+v", ok, b)
	}
	_, err = s.u.Status(s.ctx, "Later")
	s.want(err, continuity.ErrNoMailbox)
	s.must(s.u.Subscribe(s.ctx, "Later", false))
	if _, ok := s.find("Later"); ok {
		s.t.Error("unsubscribed, and still there")
	}

	s.must(s.u.Rename(s.ctx, "Projekte", "Vorhaben"))
	if _, ok := s.find("Projekte/2026"); ok {
		s.t.Error("what was below has stayed")
	}
	if _, ok := s.find("Vorhaben/2026"); !ok {
		s.t.Error("what was below is lost")
	}
	old, err := s.u.Status(s.ctx, "Vorhaben")
	s.must(err)
	s.must(s.u.Delete(s.ctx, "Vorhaben"))
	if _, ok := s.find("Vorhaben/2026"); !ok {
		s.t.Error("what was below went with the mailbox")
	}
	s.must(s.u.Create(s.ctx, "Vorhaben", ""))
	fresh, err := s.u.Status(s.ctx, "Vorhaben")
	s.must(err)
	if fresh.UIDValidity == old.UIDValidity {
		s.t.Error("a new mailbox has the UIDVALIDITY of the old one of its name")
	}
}

func (s *suite) dropped() {
	s.must(s.u.Create(s.ctx, "Short", ""))
	s.put("Short", "a")
	box := s.selected("Short")
	box.Snapshot()
	s.must(s.u.Delete(s.ctx, "Short"))
	changes := box.Changes()
	if len(changes) == 0 || changes[len(changes)-1].Kind != continuity.ChangeDropped {
		s.t.Errorf("changes: %s", told(changes))
	}
}

func (s *suite) renamed() {
	s.must(s.u.Create(s.ctx, "Old", ""))
	box := s.selected("Old")
	box.Snapshot()
	s.must(s.u.Rename(s.ctx, "Old", "New"))
	uid := s.put("New", "a")
	s.must(box.Store(s.ctx, one(uid), event.FlagsAdd, []string{`\Seen`}, 0, nil))
	s.heard(box, fmt.Sprintf(`added %d, flags %d [\Seen]`, uid, uid))
	if b, err := s.u.Status(s.ctx, "New"); err != nil || b.UIDValidity != box.Mailbox().UIDValidity || b.ID != box.Mailbox().ID {
		s.t.Errorf("mailbox %+v, %v", b, err)
	}
}

// inbox: renaming INBOX moves its messages (RFC 9051 §6.3.6).
func (s *suite) inbox() {
	a := s.put("INBOX", "a", "Work")
	box := s.selected("INBOX")
	box.Snapshot()
	s.must(s.u.Rename(s.ctx, "INBOX", "Saved"))
	s.heard(box, fmt.Sprintf("expunged %d", a))
	msgs := s.selected("Saved").Snapshot()
	if len(msgs) != 1 || !slices.Equal(msgs[0].Flags, []string{"Work"}) {
		s.t.Errorf("messages %+v", msgs)
	}
	if b := s.put("INBOX", "b"); b <= a {
		s.t.Errorf("UID %d after %d", b, a)
	}
}

func (s *suite) counts() {
	s.put("Sent", "a", `\Seen`)
	s.put("Sent", "b", `\Deleted`)
	c := s.put("Sent", "c")
	box, err := s.u.Status(s.ctx, "Sent")
	s.must(err)
	if box.Messages != 3 || box.Unseen != 2 || box.Deleted != 1 || box.UIDNext != c+1 || box.Size != 3*int64(len("Subject: a\r\n\r\nbody of a\r\n")) {
		s.t.Errorf("mailbox %+v", box)
	}
	if b, ok := s.find("Sent"); !ok || b.Messages != 3 || b.Unseen != 2 {
		s.t.Errorf("in the list: %+v", b)
	}
}

func (s *suite) wake() {
	box, other := s.selected("INBOX"), s.selected("Sent")
	box.Snapshot()
	other.Snapshot()
	if first := box.Wake(); box.Wake() != first {
		s.t.Fatal("the channel changes")
	}
	uid := s.put("INBOX", "a")
	select {
	case <-box.Wake():
	case <-time.After(10 * time.Second):
		s.t.Fatal("nobody woke us")
	}
	s.heard(box, fmt.Sprintf("added %d", uid))
	s.heard(other, "")
}
