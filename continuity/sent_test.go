package continuity

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"holdfast/event"
)

// sent is the acceptance of a submitted message.
func (n *node) sent(a event.Account, messageID, text string) event.Event {
	n.t.Helper()
	mark, err := n.svc.CopyMark(context.Background(), n.tenant, a, messageID, sha256.Sum256([]byte(text)))
	if err != nil {
		n.t.Fatal(err)
	}
	return n.mail(text, "Received: x\r\n", event.Allotment{Account: a, Place: event.PlaceSent, Seen: true, Copy: mark})
}

func TestOneCopyInSent(t *testing.T) {
	const text = "Message-ID: <1@x>\r\n\r\nhello\r\n"
	const bare = "Subject: no id\r\n\r\nhello\r\n"
	for _, c := range []struct {
		name string
		do   func(t *testing.T, n *node, u *User)
		want string // where there is a copy, and whose it is
	}{
		{"submission alone", func(t *testing.T, n *node, u *User) {
			n.append(n.sent(alice, "<1@x>", text))
		}, "Sent:ours"},
		{"client second", func(t *testing.T, n *node, u *User) {
			n.append(n.sent(alice, "<1@x>", text))
			mustAppend(t, u, "Sent", text)
		}, "Sent:client"},
		{"client first", func(t *testing.T, n *node, u *User) {
			mustAppend(t, u, "Sent", text)
			n.append(n.sent(alice, "<1@x>", text))
		}, "Sent:client"},
		{"without an id, final line end left out", func(t *testing.T, n *node, u *User) {
			n.append(n.sent(alice, "", bare))
			mustAppend(t, u, "Sent", strings.TrimSuffix(bare, "\r\n"))
		}, "Sent:client"},
		{"drafts are no copies", func(t *testing.T, n *node, u *User) {
			mustAppend(t, u, "Drafts", text)
			n.append(n.sent(alice, "<1@x>", text))
		}, "Drafts:client Sent:ours"},
		{"submitted twice", func(t *testing.T, n *node, u *User) {
			n.append(n.sent(alice, "<1@x>", text))
			n.append(n.sent(alice, "<1@x>", text))
		}, "Sent:ours"},
		{"other messages are others", func(t *testing.T, n *node, u *User) {
			n.append(n.sent(alice, "<1@x>", text))
			n.append(n.sent(alice, "", bare))
			mustAppend(t, u, "Sent", strings.ReplaceAll(text, "1@", "2@"))
		}, "Sent:ours Sent:ours Sent:client"},
		{"filed by the user before the client's comes", func(t *testing.T, n *node, u *User) {
			n.append(n.sent(alice, "<1@x>", text))
			if _, err := mustSelect(t, u, "Sent").Move(t.Context(), all(), "Archive"); err != nil {
				t.Fatal(err)
			}
			mustAppend(t, u, "Sent", text)
		}, "Archive:ours Sent:client"},
		{"removed and sent again", func(t *testing.T, n *node, u *User) {
			mustAppend(t, u, "Sent", text, `\Deleted`)
			if _, err := mustSelect(t, u, "Sent").Expunge(t.Context(), all(), nil); err != nil {
				t.Fatal(err)
			}
			n.append(n.sent(alice, "<1@x>", text))
		}, "Sent:ours"},
		{"no Sent mailbox", func(t *testing.T, n *node, u *User) {
			if err := u.Delete(t.Context(), "Sent"); err != nil {
				t.Fatal(err)
			}
			n.append(n.sent(alice, "<1@x>", text))
			mustAppend(t, u, "Sent", text)
		}, "Sent:client"},
		{"Sent made anew by the client", func(t *testing.T, n *node, u *User) {
			if err := errors.Join(u.Delete(t.Context(), "Sent"), u.Create(t.Context(), "Sent", "")); err != nil {
				t.Fatal(err)
			}
			mustAppend(t, u, "Sent", text)
			n.append(n.sent(alice, "<1@x>", text))
		}, "Sent:client"},
		{"renamed", func(t *testing.T, n *node, u *User) {
			if err := u.Rename(t.Context(), "Sent", "Gesendet"); err != nil {
				t.Fatal(err)
			}
			n.append(n.sent(alice, "<1@x>", text))
			mustAppend(t, u, "Gesendet", text)
		}, "Gesendet:client"},
		{"another mailbox has taken the use over", func(t *testing.T, n *node, u *User) {
			if err := errors.Join(u.Delete(t.Context(), "Sent"), u.Create(t.Context(), "Out", `\Sent`), u.Create(t.Context(), "Sent", "")); err != nil {
				t.Fatal(err)
			}
			n.append(n.sent(alice, "<1@x>", text))
		}, "Out:ours"},
		{"repudiated, and sent again", func(t *testing.T, n *node, u *User) {
			ev := n.sent(alice, "<1@x>", text)
			n.append(ev)
			n.repudiate(ev.ID, alice)
			if got := copies(t, u); got != "" {
				t.Errorf("after the repudiation: %s", got)
			}
			n.append(n.sent(alice, "<1@x>", text))
		}, "Sent:ours"},
		{"client's repudiated", func(t *testing.T, n *node, u *User) {
			n.append(n.sent(alice, "<1@x>", text))
			mustAppend(t, u, "Sent", text)
			n.repudiate(mustSelect(t, u, "Sent").Snapshot()[0].Email, alice)
		}, "Sent:ours"},
		{"client's repudiated and repeated", func(t *testing.T, n *node, u *User) {
			n.append(n.sent(alice, "<1@x>", text))
			mustAppend(t, u, "Sent", text)
			n.repudiate(mustSelect(t, u, "Sent").Snapshot()[0].Email, alice)
			mustAppend(t, u, "Sent", text)
		}, "Sent:client"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(t *testing.T, n *node) {
				u := n.user(alice)
				c.do(t, n, u)
				if got := copies(t, u); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				if b, err := u.List(t.Context()); err != nil || slices.IndexFunc(b, func(m Mailbox) bool { return m.Use == `\Sent` }) < 0 {
					t.Errorf("no mailbox for what is sent: %v %v", b, err)
				}
			})
		})
	}
}

// copies tells what is where: our copies have our Received line.
func copies(t *testing.T, u *User) string {
	t.Helper()
	boxes, err := u.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, b := range boxes {
		if b.NonExistent {
			continue // the subscription of a name that was renamed
		}
		s := mustSelect(t, u, b.Name)
		for _, m := range s.Snapshot() {
			whose := ":client"
			if strings.HasPrefix(string(readAll(t, s, m)), "Received: x") {
				whose = ":ours"
			}
			out = append(out, b.Name+whose)
		}
	}
	return strings.Join(out, " ")
}

func (n *node) repudiate(id event.ID, accounts ...event.Account) {
	n.t.Helper()
	n.append(event.Event{ID: event.NewID(), Tenant: n.tenant, Fact: &event.Repudiated{Message: id, Accounts: accounts}})
}

func TestRepudiatedVanishes(t *testing.T) {
	in(t, func(t *testing.T, n *node) {
		ctx, u := t.Context(), n.user(alice)
		kept := n.deliver(alice, "Subject: kept\r\n\r\n")
		ev := n.mail("Subject: late\r\n\r\n", "", event.Allotment{Account: alice, Place: event.PlaceInbox}, event.Allotment{Account: bob, Place: event.PlaceInbox})
		n.append(ev)
		inbox := mustSelect(t, u, "INBOX")
		if _, err := inbox.Copy(ctx, one(2), "Archive"); err != nil {
			t.Fatal(err)
		}
		if _, err := inbox.Move(ctx, one(2), "Trash"); err != nil {
			t.Fatal(err)
		}
		trash := mustSelect(t, u, "Trash")
		n.repudiate(ev.ID, alice, bob, alice)
		if cs := trash.Changes(); len(cs) != 1 || cs[0].Kind != ChangeExpunged || cs[0].Message.UID != 1 {
			t.Errorf("the session saw %+v", cs)
		}
		for _, u := range []*User{u, n.user(bob)} {
			boxes, _ := u.List(ctx)
			for _, b := range boxes {
				for _, m := range mustSelect(t, u, b.Name).Snapshot() {
					if m.Email != kept {
						t.Errorf("%s still has the message", b.Name)
					}
				}
			}
		}
		n.repudiate(event.NewID(), alice, event.Account{77}) // of something unknown
		if got, _ := u.Status(ctx, "INBOX"); got.Messages != 1 || got.UIDNext != 3 {
			t.Errorf("INBOX is %+v", got)
		}
	})
}
