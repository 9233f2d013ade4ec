package imapgw

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"holdfast/continuity"
)

const (
	delimiter = '/'
	inbox     = "INBOX"
)

// mailboxName returns a client's name for a mailbox as the backend wants it.
func mailboxName(name string) string {
	first, rest, nested := strings.Cut(name, "/")
	if strings.EqualFold(first, inbox) {
		first = inbox // RFC 9051 §5.1: in any case
	}
	if nested {
		return first + "/" + rest
	}
	return first
}

// specialUses are the attributes a mailbox can be created with (RFC 6154 §2).
// \All and \Flagged are views of other mailboxes, which there are none of.
var specialUses = []imap.MailboxAttr{
	imap.MailboxAttrArchive, imap.MailboxAttrDrafts, imap.MailboxAttrJunk,
	imap.MailboxAttrSent, imap.MailboxAttrTrash,
}

// Create implements CREATE (RFC 9051 §6.3.4, RFC 6154 §3).
func (s *session) Create(mailbox string, options *imap.CreateOptions) error {
	use := ""
	if options != nil && len(options.SpecialUse) > 0 {
		if len(options.SpecialUse) > 1 || !slices.Contains(specialUses, options.SpecialUse[0]) {
			return no(codeUseAttr, "A mailbox cannot have that use")
		}
		use = string(options.SpecialUse[0])
	}
	// A trailing delimiter announces mailboxes below, and is no part of the name.
	name := mailboxName(strings.TrimSuffix(mailbox, "/"))
	return answer(s.user.Create(s.ctx, name, use), false)
}

// Delete implements DELETE (RFC 9051 §6.3.5).
func (s *session) Delete(mailbox string) error {
	unlock := s.lock()
	defer unlock()
	if err := s.user.Delete(s.ctx, mailboxName(mailbox)); err != nil {
		return answer(err, false)
	}
	// Who deletes the mailbox that is selected in the same session knows it:
	// nothing is selected from now on, and there is no BYE.
	if s.sel != nil {
		s.sel.absorb(nil)
		if s.sel.view.dropped {
			s.unselect()
		}
	}
	return nil
}

// Rename implements RENAME (RFC 9051 §6.3.6).
func (s *session) Rename(from, to string, _ *imap.RenameOptions) error {
	return answer(s.user.Rename(s.ctx, mailboxName(from), mailboxName(strings.TrimSuffix(to, "/"))), false)
}

// Subscribe implements SUBSCRIBE (RFC 9051 §6.3.7).
func (s *session) Subscribe(mailbox string) error {
	return answer(s.user.Subscribe(s.ctx, mailboxName(mailbox), true), false)
}

// Unsubscribe implements UNSUBSCRIBE (RFC 9051 §6.3.8).
func (s *session) Unsubscribe(mailbox string) error {
	return answer(s.user.Subscribe(s.ctx, mailboxName(mailbox), false), false)
}

// Status implements STATUS (RFC 9051 §6.3.11).
func (s *session) Status(mailbox string, options *imap.StatusOptions) (*imap.StatusData, error) {
	if options.DeletedStorage {
		return nil, bad("There are no quotas") // RFC 9208 §4.1.4 is not offered
	}
	box, err := s.user.Status(s.ctx, mailboxName(mailbox))
	if err != nil {
		return nil, answer(err, false)
	}
	return s.statusData(&box), nil
}

func (s *session) statusData(box *continuity.Mailbox) *imap.StatusData {
	none, limit := uint32(0), uint32(s.appendLimit())
	return &imap.StatusData{
		Mailbox:     box.Name,
		NumMessages: &box.Messages, NumUnseen: &box.Unseen, NumDeleted: &box.Deleted,
		NumRecent: &none, Size: &box.Size, AppendLimit: &limit,
		UIDNext: imap.UID(box.UIDNext), UIDValidity: box.UIDValidity,
	}
}

// Poll tells the client what happened. The library calls it at the end of every
// command that succeeded.
func (s *session) Poll(w *imapserver.UpdateWriter, allowExpunge bool) error {
	unlock := s.lock()
	defer unlock()
	if s.sel == nil {
		return nil
	}
	s.sel.absorb(nil)
	return s.update(w, allowExpunge)
}

// Idle implements IDLE (RFC 9051 §6.3.13).
func (s *session) Idle(w *imapserver.UpdateWriter, stop <-chan struct{}) error {
	unlock := s.lock()
	defer unlock()
	if s.sel == nil {
		<-stop
		return nil
	}
	for {
		s.nc.hold()
		s.sel.absorb(nil)
		err := s.update(w, true)
		if ferr := s.nc.flush(); err == nil {
			err = ferr
		}
		if err != nil {
			return err
		}
		select {
		case <-s.sel.box.Wake():
		case <-stop:
			return nil
		}
	}
}
