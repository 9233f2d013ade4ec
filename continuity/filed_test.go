package continuity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/projection"
)

// The life of a day, said in few words.

func (n *node) fact(f event.Fact) {
	n.append(event.Event{ID: event.NewID(), Tenant: n.tenant, Fact: f})
}

func (n *node) keep(message event.ID, days event.Day) event.ID {
	id := event.NewID()
	n.append(event.Event{ID: id, Tenant: n.tenant, Expiry: event.DayOf(n.log.Now()) + days, Fact: &event.Kept{
		Message: message, Meta: &event.KeptMeta{Was: event.Marshal(1)},
	}})
	return id
}

func (n *node) day(days event.Day) event.Day { return event.DayOf(n.log.Now()) + days }

// filedUntil returns where the filed messages are read.
func (n *node) filedUntil(until event.Day) (ids []event.ID) {
	n.t.Helper()
	for ref, err := range n.svc.Filed(n.t.Context(), n.tenant, until) {
		if err != nil {
			n.t.Fatal(err)
		}
		ids = append(ids, ref.ID)
	}
	return ids
}

func TestWhatIsFiled(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u := n.user(alice)
		for _, name := range []string{"Projects", "Trash/old", "Bin"} {
			if err := u.Create(t.Context(), name, map[string]string{"Bin": `\Trash`}[name]); err != nil {
				t.Fatal(err)
			}
		}
		if err := u.Rename(t.Context(), "Junk", "Rubbish"); err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{}
		for _, c := range []struct {
			box           string
			plain, marked bool
		}{
			{"INBOX", false, true}, {"Sent", false, true}, {"Trash", false, false}, {"Bin", false, false}, {"Rubbish", false, false},
			{"Drafts", true, true}, {"Archive", true, true}, {"Projects", true, true}, {"Trash/old", true, true},
		} {
			for _, flags := range [][]string{{`\Seen`, `\Deleted`, "$Important"}, {`\Flagged`}} {
				text := fmt.Sprintf("Subject: %s %d\r\n\r\n", c.box, len(flags))
				mustAppend(t, u, c.box, text, flags...)
				want[text] = len(flags) == 1 && c.marked || len(flags) != 1 && c.plain
			}
		}
		before := n.filedUntil(n.day(30))
		if got := n.filedUntil(n.day(29)); got != nil {
			t.Errorf("filed a day earlier: %v", got)
		}
		n.fact(&event.DayCondemned{Day: n.day(30)})
		left := 0
		boxes, err := u.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range boxes {
			if b.NonExistent {
				continue
			}
			sel := mustSelect(t, u, b.Name)
			for _, m := range sel.Snapshot() {
				if left++; !want[string(readAll(t, sel, m))] || !slices.Contains(before, m.Email) {
					t.Errorf("%s: message %d is left", b.Name, m.UID)
				}
			}
		}
		if left != 10 || len(before) != 10 {
			t.Errorf("%d are left of %d that were filed, want 10", left, len(before))
		}
		if got := n.filedUntil(n.day(30)); !slices.Equal(slices.Sorted(texts(got)), slices.Sorted(texts(before))) {
			t.Errorf("filed after the condemnation: %v, want %v", got, before)
		}
	})
}

func texts(ids []event.ID) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, id := range ids {
			if !yield(id.String()) {
				return
			}
		}
	}
}

// TestLate: what a user took out of his files after the condemnation cannot be
// put back, nor any copy of it.
func TestLate(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		for range 3 {
			n.deliver(alice, "Subject: x\r\n\r\n")
		}
		inbox, archive := mustSelect(t, u, "INBOX"), mustSelect(t, u, "Archive")
		flag := func(s *Selected, op event.FlagOp, uid event.UID) {
			t.Helper()
			wantErr(t, "store", s.Store(ctx, []event.UIDRange{{First: uid, Last: uid}}, op, []string{`\Flagged`}, 0, nil), nil)
		}
		flag(inbox, event.FlagsAdd, 1)
		if _, err := inbox.Copy(ctx, []event.UIDRange{{First: 2, Last: 3}}, "Archive"); err != nil {
			t.Fatal(err)
		}
		n.fact(&event.DayCondemned{Day: n.day(30)})
		if got := n.filedUntil(n.day(30)); len(got) != 3 {
			t.Fatalf("%d are filed", len(got))
		}
		flag(inbox, event.FlagsRemove, 1)
		flag(inbox, event.FlagsAdd, 1) // too late
		if _, err := archive.Copy(ctx, []event.UIDRange{{First: 1, Last: 1}}, "INBOX"); err != nil {
			t.Fatal(err)
		}
		flag(inbox, event.FlagsAdd, 4) // it was in INBOX without a flag
		if _, err := archive.Move(ctx, []event.UIDRange{{First: 1, Last: 1}}, "Trash"); err != nil {
			t.Fatal(err)
		}
		if got := n.filedUntil(n.day(30)); len(got) != 1 {
			t.Errorf("%d are filed, want the one that was never touched", len(got))
		}
		if got := list(t, u, "INBOX"); strings.Count(got, "\n") != 2 {
			t.Errorf("INBOX has\n%s", got)
		}
		n.fact(&event.DayExpired{Day: n.day(30)})
		for _, name := range []string{"INBOX", "Archive", "Trash"} {
			if got := list(t, u, name); got != "" {
				t.Errorf("%s has\n%s", name, got)
			}
		}
	})
}

// TestKeptTwice: the last Kept counts, for copies that were made after the first
// one, too; and a message may be kept for years.
func TestKeptTwice(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		uid := mustAppend(t, u, "Archive", "Subject: dear\r\n\r\n")
		archive := mustSelect(t, u, "Archive")
		first := archive.Snapshot()[0]
		read := func(name string) (ids []event.ID) {
			t.Helper()
			for _, m := range mustSelect(t, u, name).Snapshot() {
				if m.Email != first.Email {
					t.Errorf("%s: the EMAILID has changed", name)
				}
				ids = append(ids, m.Ref.ID)
			}
			return ids
		}
		day := event.Day(30)
		for range 4 {
			n.fact(&event.DayCondemned{Day: n.day(day)})
			n.keep(first.Email, day+20)
			if _, err := archive.Copy(ctx, []event.UIDRange{{First: uid, Last: uid}}, "Drafts"); err != nil {
				t.Fatal(err)
			}
			last := n.keep(first.Email, day+30)
			n.fact(&event.DayExpired{Day: n.day(day)})
			n.fact(&event.DayCondemned{Day: n.day(day + 20)}) // of no meaning any more
			n.fact(&event.DayExpired{Day: n.day(day + 20)})
			for _, name := range []string{"Archive", "Drafts"} {
				for _, id := range read(name) {
					if id != last {
						t.Errorf("%s: read at %v, want %v", name, id, last)
					}
				}
			}
			day += 30
		}
		if got := read("Drafts"); len(got) != 4 {
			t.Errorf("%d copies", len(got))
		}
		if m := mustSelect(t, u, "Archive").Snapshot()[0]; m.UID != first.UID || m.ModSeq != first.ModSeq || m.Date != first.Date || m.Saved != first.Saved {
			t.Errorf("it was %+v and is %+v", first, m)
		}
		if changes := archive.Changes(); len(changes) != 0 {
			t.Errorf("a session is told %+v", changes)
		}
		n.fact(&event.Erased{Order: event.NewID(), Items: []event.ErasedItem{{Message: first.Email, Accounts: []event.Account{bob, alice}}}})
		if changes := archive.Changes(); len(changes) != 1 || changes[0].Kind != ChangeExpunged || changes[0].Message.UID != uid {
			t.Errorf("of an erased message a session is told %+v", changes)
		}
		if got := list(t, u, "Drafts"); got != "" {
			t.Errorf("Drafts has\n%s", got)
		}
		if got := n.rowsOf(keyAwait); got != 0 {
			t.Errorf("%d messages are awaited for ever", got)
		}
	})
}

// TestReadAfterItsDay: a session that knows a message from before its day reads
// it where it is kept, and is told cleanly of what is not.
func TestReadAfterItsDay(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u, ctx := n.user(alice), t.Context()
		n.days = 1
		big := strings.Repeat("0123456789abcde\n", 40_000)
		n.append(n.mail("Subject: one\r\n\r\n"+big, "Received: x\r\n", event.Allotment{Account: alice, Place: event.PlaceInbox}))
		mustAppend(t, u, "INBOX", "Subject: two\r\n\r\nhello\r\n", `\Flagged`)
		n.deliver(alice, "Subject: three\r\n\r\n")
		inbox := mustSelect(t, u, "INBOX")
		msgs := inbox.Snapshot()
		wantErr(t, "store", inbox.Store(ctx, []event.UIDRange{{First: 1, Last: 1}}, event.FlagsAdd, []string{`\Flagged`}, 0, nil), nil)
		want := [][]byte{readAll(t, inbox, msgs[0]), readAll(t, inbox, msgs[1])}
		last := n.day(5)
		for day := n.day(1); day <= last; day += 2 {
			time.Sleep(48 * time.Hour)
			n.fact(&event.DayCondemned{Day: day})
			for ref, err := range n.svc.Filed(ctx, n.tenant, day) {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := n.log.Keep(ctx, ref, day+2, event.KeptFiled); err != nil {
					t.Fatal(err)
				}
			}
			if left := n.filedUntil(day); left != nil {
				t.Fatalf("still filed: %v", left)
			}
			n.fact(&event.DayExpired{Day: day})
			if err := n.keys.(*crypto.Root).AdvanceTo(day + 1); err != nil {
				t.Fatal(err)
			}
			n.log.Forget(day + 1)
			for i := range want {
				if got := readAll(t, inbox, msgs[i]); !bytes.Equal(got, want[i]) {
					t.Errorf("message %d is %d bytes, and was %d", i+1, len(got), len(want[i]))
				}
				if ix, err := inbox.Index(ctx, msgs[i]); err != nil || ix.Envelope.Subject != []string{"one", "two"}[i] {
					t.Errorf("index of message %d: %v", i+1, err)
				}
			}
			_, err := inbox.Open(ctx, msgs[2])
			wantErr(t, "read what is gone", err, ErrNoMessage)
		}
		// What cannot be read although it is there has expired.
		n.log.Forget(n.day(10))
		if err := n.keys.(*crypto.Root).AdvanceTo(n.day(10)); err != nil {
			t.Fatal(err)
		}
		_, err := inbox.Open(ctx, msgs[0])
		wantErr(t, "read", err, ErrExpired)
		_, err = inbox.Index(ctx, msgs[1])
		wantErr(t, "index", err, ErrExpired)
	})
}

// rowsOf counts the keys of a kind.
func (n *node) rowsOf(kind byte) (count int) {
	n.t.Helper()
	n.settle()
	err := n.runner.View(context.Background(), foldName, func(v projection.View) error {
		for _, err := range v.Scan([]byte{kind}, nil, false) {
			if err != nil {
				return err
			}
			count++
		}
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return count
}

// TestErasedStaysGone: our copy of a sent message does not come back when the
// client's, which had replaced it, is taken back.
func TestErasedStaysGone(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		const text = "Message-ID: <1@x>\r\n\r\nhello\r\n"
		ours := n.sent(alice, "<1@x>", text)
		n.append(ours)
		mustAppend(t, n.user(alice), "Sent", text)
		client := mustSelect(t, n.user(alice), "Sent").Snapshot()[0].Email
		n.fact(&event.Erased{Order: event.NewID(), Items: []event.ErasedItem{{Message: ours.ID, Accounts: []event.Account{alice}}}})
		if got := list(t, n.user(alice), "Sent"); strings.Count(got, "\n") != 1 {
			t.Errorf("Sent has\n%s", got)
		}
		n.repudiate(client, alice)
		if got := list(t, n.user(alice), "Sent"); got != "" {
			t.Errorf("Sent has\n%s", got)
		}
	})
}

// TestBounded: a mailbox that gets and loses mail every day for a year is no
// larger at its end.
func TestBounded(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		u := n.user(alice)
		sel := mustSelect(t, u, "INBOX")
		uid := event.UID(0)
		total := func() int {
			sum := 0
			for _, kind := range []byte{keyMessage, keyTombstone, keyCopy, keyDay, keyAwait} {
				sum += n.rowsOf(kind)
			}
			return sum
		}
		var early int
		n.days = 2
		for day := range 365 {
			for range 3 {
				n.deliver(alice, "Subject: x\r\n\r\n")
			}
			n.append(n.sent(alice, fmt.Sprintf("<%d@x>", day), "Subject: x\r\n\r\n"))
			n.fact(&event.DayCondemned{Day: n.day(-1)})
			n.fact(&event.DayExpired{Day: n.day(-1)})
			time.Sleep(24 * time.Hour)
			if day == 200 {
				early = total()
			}
			for _, c := range sel.Changes() {
				if c.Kind == ChangeExpunged {
					if uid++; c.Message.UID != uid {
						t.Fatalf("UID %d went, want %d", c.Message.UID, uid)
					}
				}
			}
		}
		if late := total(); late > early+2*keptTombstones { // of two mailboxes
			t.Errorf("%d keys on day 200, %d on day 365", early, late)
		}
		n.tombstonesTell(t, uid)
	})
}

// tombstonesTell checks that tombstones name, from any step on, all UIDs that
// went since, and none that did not.
func (n *node) tombstonesTell(t *testing.T, last event.UID) {
	var runs []event.UIDRange
	count := uint32(0)
	err := n.runner.View(context.Background(), foldName, func(v projection.View) error {
		for it, err := range v.Scan(tombstonePrefix(alice, inboxID), nil, true) {
			if err != nil {
				return err
			}
			if runs, err = parseRuns(runs, it.Value); err != nil {
				return err
			}
			count++
		}
		box, err := loadMailbox(v, alice, inboxID)
		if err == nil && (box.Tombstones != count || count >= 2*keptTombstones) {
			t.Errorf("%d tombstones, counted as %d", count, box.Tombstones)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if all := mergeRuns(runs); len(all) != 1 || all[0] != (event.UIDRange{First: 1, Last: last}) {
		t.Errorf("tombstones name %v, want 1 to %d", all, last)
	}
}

// TestFiledWaits: an answer is never older than what the node knows of the log.
func TestFiledWaits(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		mustAppend(t, n.user(alice), "Archive", "Subject: x\r\n\r\n")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range n.svc.Filed(ctx, n.tenant, n.day(30)) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
	})
}
