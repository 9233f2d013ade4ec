package continuity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
)

// AppendLimit is the largest size that Append takes, in bytes.
func (u *User) AppendLimit() int64 { return u.limit }

// Append stores exactly size bytes of r as a new message. A zero date means now.
// [ErrNoMailbox], [ErrTooBig]; an error of r is returned wrapped.
func (u *User) Append(ctx context.Context, name string, size int64, r io.Reader, flags []string, date time.Time) (uint32, event.UID, error) {
	if size > u.limit {
		return 0, 0, ErrTooBig
	}
	box, err := u.Status(ctx, name)
	if err != nil {
		return 0, 0, err
	}
	now := u.svc.log.Now()
	if date.IsZero() {
		date = now
	}
	ev := event.Event{ID: event.NewID(), Tenant: u.tenant, Expiry: event.DayOf(now) + u.days()}
	mail, mark, err := u.upload(ctx, ev, size, r)
	if err != nil {
		return 0, 0, err
	}
	ev.Body = mail.Body
	ev.Fact = &event.Appended{
		Account: u.account, Mailbox: box.ID, At: event.Millis(now.UnixMilli()), Date: event.Millis(date.UnixMilli()),
		Size: size, Flags: flags, Copy: mark, Domain: domainOf(u.address),
		Meta: &event.AppendedMeta{SHA256: mail.SHA256, Index: mail.Raw, Owner: u.address},
	}
	said, err := u.do(ctx, ev, nil)
	if err != nil {
		return 0, 0, err
	}
	v, ok := find[appended](said)
	if !ok {
		return 0, 0, errNoVerdict
	}
	return v.Validity, v.UID, nil
}

// domainOf returns the domain of an address, in lower case.
func domainOf(address string) string {
	return strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
}

// upload seals a message as it comes. Storage may take commandTimeout for each
// piece, the client as long as its connection lives.
func (u *User) upload(ctx context.Context, ev event.Event, size int64, r io.Reader) (mail eventlog.Mail, mark [16]byte, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := time.AfterFunc(commandTimeout, cancel)
	defer patience.Stop()
	w, err := u.svc.log.NewMail(ctx, ev.ID, u.tenant, ev.Expiry, nil)
	if err != nil {
		return mail, mark, temporary(err)
	}
	defer w.Discard()
	own := ownSum{h: sha256.New()}
	buf := make([]byte, 32<<10)
	for left := size; left > 0; {
		patience.Stop() // while it is the client we wait for
		n, rerr := r.Read(buf[:min(int64(len(buf)), left)])
		left -= int64(n)
		own.write(buf[:n])
		patience.Reset(commandTimeout)
		if _, err := w.Write(buf[:n]); err != nil {
			return mail, mark, temporary(err)
		}
		if left > 0 && rerr != nil {
			if errors.Is(rerr, io.EOF) {
				rerr = io.ErrUnexpectedEOF
			}
			return mail, mark, fmt.Errorf("append: %d of %d bytes came: %w", size-left, size, rerr)
		}
	}
	patience.Reset(commandTimeout)
	if mail, err = w.Finish(); err != nil {
		return mail, mark, temporary(err)
	}
	mark, err = u.svc.CopyMark(ctx, u.tenant, u.account, mail.Index.Envelope.MessageID, own.sum())
	return mail, mark, temporary(err)
}

// ownSum is the SHA-256 of a message that ends in CRLF: some clients leave that
// out in one of the two copies.
type ownSum struct {
	h    hash.Hash
	last [2]byte
}

func (s *ownSum) write(p []byte) {
	s.h.Write(p)
	switch n := len(p); {
	case n >= 2:
		s.last = [2]byte(p[n-2:])
	case n == 1:
		s.last = [2]byte{s.last[1], p[0]}
	}
}

func (s *ownSum) sum() [32]byte {
	if !bytes.Equal(s.last[:], []byte("\r\n")) {
		s.h.Write([]byte("\r\n"))
	}
	return [32]byte(s.h.Sum(nil))
}

// CopyMark returns the mark by which the copies of one sent message recognise
// each other in the Sent mailbox of an account: a keyed hash of its Message-ID,
// or where the user's own bytes have none, of the SHA-256 of these bytes with a
// CRLF at the end if there is none.
func (s *Service) CopyMark(ctx context.Context, t event.Tenant, a event.Account, messageID string, own [32]byte) ([16]byte, error) {
	keys, err := s.log.TenantKeys(ctx, t)
	if err != nil {
		return [16]byte{}, err
	}
	if id := message.NormaliseMessageID(messageID); id != "" {
		return keys.Lookup("sent copy", append(a[:], id...)), nil
	}
	return keys.Lookup("sent bytes", append(a[:], own[:]...)), nil
}
