package imapgwtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/continuity"
	"holdfast/event"
	"holdfast/imapgw"
)

// Run tells whether a backend does what the contracts of imapgw.Backend, User
// and Selected say. open returns a backend with one user, alice@acme.test with
// the password "secret", whose mailboxes are empty; it is called for each part.
func Run(t *testing.T, open func(t *testing.T) imapgw.Backend) {
	for name, part := range map[string]func(*suite){
		"login": (*suite).login, "append": (*suite).append, "changes": (*suite).changes,
		"keywords": (*suite).keywords, "expunge": (*suite).expunge, "copy": (*suite).copy,
		"move": (*suite).move, "folders": (*suite).folders, "dropped": (*suite).dropped,
		"renamed": (*suite).renamed, "inbox": (*suite).inbox, "counts": (*suite).counts,
		"wake": (*suite).wake,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{t: t, ctx: t.Context(), b: open(t)}
			s.u = s.user()
			part(s)
		})
	}
}

const (
	suiteUser     = "alice@acme.test"
	suitePassword = "secret"
)

type suite struct {
	t   *testing.T
	ctx context.Context
	b   imapgw.Backend
	u   imapgw.User
}

func (s *suite) user() imapgw.User {
	s.t.Helper()
	u, err := s.b.Login(s.ctx, imapgw.Peer{}, suiteUser, suitePassword)
	s.must(err)
	s.t.Cleanup(u.Close)
	return u
}

func (s *suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) want(err, want error) {
	s.t.Helper()
	if !errors.Is(err, want) {
		s.t.Errorf("error %v, want %v", err, want)
	}
}

func (s *suite) selected(name string) imapgw.Selected {
	s.t.Helper()
	box, err := s.u.Select(s.ctx, name)
	s.must(err)
	s.t.Cleanup(box.Close)
	return box
}

func (s *suite) put(name, subject string, flags ...string) event.UID {
	s.t.Helper()
	mail := "Subject: " + subject + "\r\n\r\nbody of " + subject + "\r\n"
	_, uid, err := s.u.Append(s.ctx, name, int64(len(mail)), strings.NewReader(mail), flags, time.Time{})
	s.must(err)
	return uid
}

func one(uid event.UID) []event.UIDRange { return []event.UIDRange{{First: uid, Last: uid}} }

// told sums changes up: kind, UID and sorted flags of each.
func told(changes []continuity.Change) string {
	var out []string
	for _, c := range changes {
		switch c.Kind {
		case continuity.ChangeAdded:
			out = append(out, fmt.Sprintf("added %d", c.Message.UID))
		case continuity.ChangeFlags:
			flags := slices.Sorted(slices.Values(c.Message.Flags))
			out = append(out, fmt.Sprintf("flags %d %v", c.Message.UID, flags))
		case continuity.ChangeExpunged:
			out = append(out, fmt.Sprintf("expunged %d", c.Message.UID))
		case continuity.ChangeKeywords:
			out = append(out, fmt.Sprintf("keywords %v", c.Keywords))
		case continuity.ChangeDropped:
			out = append(out, "dropped")
		default:
			out = append(out, fmt.Sprintf("kind %d", c.Kind))
		}
	}
	return strings.Join(out, ", ")
}

func (s *suite) heard(box imapgw.Selected, want string) {
	s.t.Helper()
	if got := told(box.Changes()); got != want {
		s.t.Errorf("changes: %s\nwant:    %s", got, want)
	}
}

func (s *suite) login() {
	for _, c := range [][2]string{{suiteUser, "wrong"}, {"nobody@acme.test", suitePassword}, {"", ""}} {
		_, err := s.b.Login(s.ctx, imapgw.Peer{}, c[0], c[1])
		s.want(err, imapgw.ErrBadCredentials)
	}
	boxes, err := s.u.List(s.ctx)
	s.must(err)
	uses := map[string]string{}
	for _, b := range boxes {
		uses[b.Name] = b.Use
	}
	for name, use := range map[string]string{"INBOX": "", "Sent": `\Sent`, "Drafts": `\Drafts`, "Trash": `\Trash`, "Junk": `\Junk`, "Archive": `\Archive`} {
		if got, ok := uses[name]; !ok || got != use {
			s.t.Errorf("mailbox %s: there %v, use %q", name, ok, got)
		}
	}
}

func (s *suite) append() {
	at := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	mail := "Subject: hello\r\n\r\nworld\r\n"
	validity, uid, err := s.u.Append(s.ctx, "Drafts", int64(len(mail)), strings.NewReader(mail), []string{`\Draft`, "Work"}, at)
	s.must(err)
	box := s.selected("Drafts")
	state, msgs := box.Mailbox(), box.Snapshot()
	if state.UIDValidity != validity || validity == 0 || state.UIDNext != uid+1 || !slices.Contains(state.Keywords, "Work") {
		s.t.Errorf("mailbox %+v after uid %d, validity %d", state, uid, validity)
	}
	if len(msgs) != 1 || msgs[0].UID != uid || msgs[0].Size != int64(len(mail)) || int64(msgs[0].Date) != at.UnixMilli() {
		s.t.Fatalf("messages %+v", msgs)
	}
	if got := slices.Sorted(slices.Values(msgs[0].Flags)); !slices.Equal(got, []string{"Work", `\Draft`}) {
		s.t.Errorf("flags %v", got)
	}
	ix, err := box.Index(s.ctx, msgs[0])
	s.must(err)
	r, err := box.Open(s.ctx, msgs[0])
	s.must(err)
	data, err := io.ReadAll(r)
	s.must(err)
	s.must(r.Close())
	if string(data) != mail || ix.Size != int64(len(mail)) || ix.Envelope.Subject != "hello" {
		s.t.Errorf("message %q with index of %d bytes", data, ix.Size)
	}
	_, _, err = s.u.Append(s.ctx, "Nowhere", 1, strings.NewReader("x"), nil, time.Time{})
	s.want(err, continuity.ErrNoMailbox)
	_, _, err = s.u.Append(s.ctx, "Drafts", 100, io.MultiReader(strings.NewReader("Subject"), failed{}), nil, time.Time{})
	s.want(err, errCut)
	s.heard(box, "")
}

var errCut = errors.New("connection lost")

type failed struct{}

func (failed) Read([]byte) (int, error) { return 0, errCut }

func (s *suite) changes() {
	a := s.put("INBOX", "a")
	mine, other := s.selected("INBOX"), s.selected("INBOX")
	mine.Snapshot()
	if n := len(other.Snapshot()); n != 1 {
		s.t.Fatalf("%d messages", n)
	}
	token := new(int)
	s.must(mine.Store(s.ctx, one(a), event.FlagsAdd, []string{`\Seen`}, 0, token))
	b := s.put("INBOX", "b")
	s.must(mine.Store(s.ctx, []event.UIDRange{{First: 1, Last: b + 100}}, event.FlagsAdd, []string{`\Flagged`}, 0, nil))
	want := fmt.Sprintf(`flags %d [\Seen], added %d, flags %d [\Flagged \Seen], flags %d [\Flagged]`, a, b, a, b)
	changes := mine.Changes()
	if got := told(changes); got != want {
		s.t.Fatalf("changes: %s\nwant:    %s", got, want)
	}
	if changes[0].Origin != any(token) || changes[2].Origin == any(token) {
		s.t.Errorf("origins %v and %v", changes[0].Origin, changes[2].Origin)
	}
	for i := 1; i < len(changes); i++ {
		if changes[i].ModSeq < changes[i-1].ModSeq {
			s.t.Errorf("modseq %d after %d", changes[i].ModSeq, changes[i-1].ModSeq)
		}
	}
	s.heard(mine, "")
	s.heard(other, want)
	// What changes nothing is no change; what is not there is passed over.
	s.must(mine.Store(s.ctx, one(a), event.FlagsAdd, []string{`\Seen`}, 0, token))
	s.must(mine.Store(s.ctx, one(b+7), event.FlagsAdd, []string{`\Seen`}, 0, token))
	s.must(mine.Store(s.ctx, one(b), event.FlagsRemove, []string{`\Draft`}, 0, token))
	s.heard(mine, "")
	s.must(mine.Store(s.ctx, one(a), event.FlagsReplace, []string{`\Draft`}, 0, token))
	s.must(mine.Store(s.ctx, one(a), event.FlagsReplace, nil, 0, token))
	s.heard(mine, fmt.Sprintf(`flags %d [\Draft], flags %d []`, a, a))
	// unchangedSince leaves out what was changed after.
	s.must(mine.Store(s.ctx, []event.UIDRange{{First: a, Last: b}}, event.FlagsAdd, []string{`\Answered`}, changes[3].ModSeq, token))
	s.heard(mine, fmt.Sprintf(`flags %d [\Answered \Flagged]`, b))
}

func (s *suite) keywords() {
	a := s.put("INBOX", "a")
	box := s.selected("INBOX")
	box.Snapshot()
	s.must(box.Store(s.ctx, one(a), event.FlagsAdd, []string{"Work"}, 0, nil))
	s.heard(box, fmt.Sprintf("keywords [Work], flags %d [Work]", a))
	s.must(box.Store(s.ctx, one(a), event.FlagsAdd, []string{"WORK"}, 0, nil))
	s.heard(box, "")
	s.must(box.Store(s.ctx, one(a), event.FlagsRemove, []string{"work"}, 0, nil))
	s.must(box.Store(s.ctx, one(a), event.FlagsAdd, []string{"woRK", "Home"}, 0, nil))
	s.heard(box, fmt.Sprintf("flags %d [], keywords [Work Home], flags %d [Home Work]", a, a))
	if got := s.selected("INBOX").Mailbox().Keywords; !slices.Equal(got, []string{"Work", "Home"}) {
		s.t.Errorf("keywords %v", got)
	}
}

func (s *suite) expunge() {
	a, b, c := s.put("INBOX", "a", `\Deleted`), s.put("INBOX", "b"), s.put("INBOX", "c", `\Deleted`)
	box := s.selected("INBOX")
	box.Snapshot()
	got, err := box.Expunge(s.ctx, []event.UIDRange{{First: a, Last: b}}, nil)
	s.must(err)
	if !slices.Equal(got, []event.UID{a}) {
		s.t.Errorf("expunged %v", got)
	}
	s.heard(box, fmt.Sprintf("expunged %d", a))
	got, err = box.Expunge(s.ctx, []event.UIDRange{{First: 1, Last: c}}, nil)
	s.must(err)
	if !slices.Equal(got, []event.UID{c}) {
		s.t.Errorf("expunged %v", got)
	}
	s.heard(box, fmt.Sprintf("expunged %d", c))
	// UIDs are not used again.
	if d := s.put("INBOX", "d"); d <= c {
		s.t.Errorf("UID %d after %d", d, c)
	}
}
