package continuity

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

// FuzzUser lets a user do anything with mailboxes, by names, flags and bytes of
// a stranger's choice: each line of the script is one command, its fields
// separated by tabs. Commands succeed or end in one of the errors that this
// package names; what was stored reads back; a node that starts from nothing
// shows the same.
func FuzzUser(f *testing.F) {
	for _, script := range []string{
		"create\ta/b\nappend\ta/b\t\\Seen\tSubject: x\r\n\r\ny\nrename\ta\tc\ndelete\tc/b",
		"create\tINBOX\ncreate\tinbox/x/\nrename\tINBOX\tOld\nappend\tinbox\t\t",
		"create\t%\ncreate\t\x7f\ncreate\ta//b\ncreate\t\xff\ndelete\tINBOX\nsubscribe\tnothing",
		"append\tINBOX\t\\Recent $Junk \\Deleted kw\t\x00\nstore\tINBOX\t\\Answered a\x00b\nexpunge\tINBOX\nmove\tINBOX\tTrash",
		"copy\tINBOX\tINBOX\ncreate\t" + strings.Repeat("a/", 600) + "b\nappend\tINBOX\t" + strings.Repeat("k", 2000) + "\tx",
	} {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script string) {
		commands := strings.Split(script, "\n")
		if len(commands) > 20 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, newMem())
			n := w.start(0)
			n.ensure(alice)
			u := n.user(alice)
			for _, c := range commands {
				if err := obey(t, u, strings.Split(c, "\t")); err != nil && !named(err) {
					t.Errorf("%q: %v", c, err)
				}
			}
			boxes, err := u.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range boxes {
				if !goodName(b.Name) || slices.ContainsFunc(boxes[:i], func(o Mailbox) bool { return o.Name == b.Name }) {
					t.Errorf("mailbox %q", b.Name)
				}
			}
			want := n.hash()
			n.close()
			if w.start(0).hash() != want {
				t.Error("a rebuild shows something else")
			}
		})
	})
}

// named reports whether an error is one that a protocol knows what to do with.
func named(err error) bool {
	return slices.ContainsFunc([]error{ErrNoMailbox, ErrExists, ErrBadName, ErrInbox, ErrNoMessage, ErrTooBig}, func(e error) bool { return errors.Is(err, e) })
}

// obey does what a line of a script says. Lines that say nothing are passed over.
func obey(t *testing.T, u *User, words []string) error {
	word := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	everything := []event.UIDRange{{First: 1, Last: 1 << 31}}
	selected := func(do func(*Selected) error) error {
		s, err := u.Select(t.Context(), word(1))
		if err != nil {
			return err
		}
		defer s.Close()
		return do(s)
	}
	switch words[0] {
	case "create":
		return u.Create(t.Context(), word(1), word(2))
	case "delete":
		return u.Delete(t.Context(), word(1))
	case "rename":
		return u.Rename(t.Context(), word(1), word(2))
	case "subscribe":
		return u.Subscribe(t.Context(), word(1), word(2) == "")
	case "append":
		_, uid, err := u.Append(t.Context(), word(1), int64(len(word(3))), strings.NewReader(word(3)), strings.Fields(word(2)), time.Time{})
		if err != nil {
			return err
		}
		return selected(func(s *Selected) error {
			msgs := s.Snapshot()
			if m := msgs[len(msgs)-1]; m.UID != uid || !bytes.Equal(readAll(t, s, m), []byte(word(3))) {
				t.Errorf("appended %q as %d, which reads as something else", word(3), uid)
			}
			return nil
		})
	case "store":
		return selected(func(s *Selected) error {
			return s.Store(t.Context(), everything, event.FlagsAdd, strings.Fields(word(2)), 0, nil)
		})
	case "expunge":
		return selected(func(s *Selected) error { _, err := s.Expunge(t.Context(), everything, nil); return err })
	case "copy":
		return selected(func(s *Selected) error { _, err := s.Copy(t.Context(), everything, word(2)); return err })
	case "move":
		return selected(func(s *Selected) error { _, err := s.Move(t.Context(), everything, word(2)); return err })
	}
	return nil
}
