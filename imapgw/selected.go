package imapgw

import (
	"errors"
	"net"
	"strconv"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"holdfast/continuity"
	"holdfast/event"
)

// selection is the mailbox that a session has selected.
type selection struct {
	box      Selected
	view     *view
	readOnly bool
}

// command is the origin of what one command does. When the command has failed
// and its effect shows later all the same, that is news to the client, so the
// next command has another.
type command struct{ _ byte }

// absorb takes what happened into the view; own is the command that is running,
// or nil.
func (sel *selection) absorb(own *command) {
	if own == nil {
		sel.view.absorb(sel.box.Changes(), nil)
		return
	}
	sel.view.absorb(sel.box.Changes(), own)
}

// Select implements SELECT and EXAMINE (RFC 9051 §6.3.2, §6.3.3). The library
// has unselected before.
func (s *session) Select(mailbox string, options *imap.SelectOptions) (*imap.SelectData, error) {
	unlock := s.lock()
	defer unlock()
	s.unselect()
	box, err := s.user.Select(s.ctx, mailboxName(mailbox))
	if err != nil {
		return nil, answer(err, false)
	}
	mb := box.Mailbox()
	s.sel = &selection{box: box, view: newView(box.Snapshot(), mb.Keywords), readOnly: options.ReadOnly}
	data := &imap.SelectData{
		Flags:       mailboxFlags(mb.Keywords),
		NumMessages: uint32(s.sel.view.told),
		UIDNext:     imap.UID(mb.UIDNext),
		UIDValidity: mb.UIDValidity,
	}
	if !options.ReadOnly {
		data.PermanentFlags = append(mailboxFlags(mb.Keywords), imap.FlagWildcard)
	}
	for i := range s.sel.view.msgs {
		if !hasFlag(s.sel.view.msgs[i].Flags, flagSeen) {
			data.FirstUnseenSeqNum = uint32(i + 1)
			break
		}
	}
	if _, rev2 := s.ic.EnabledCaps()[imap.CapIMAP4rev2]; rev2 {
		n := node{mb.Name, &mb}
		data.List = (&tree{nodes: []node{n}}).entry(n, &imap.ListOptions{}, true, nil)
		data.List.Attrs = nil // whether it has children is not known here
	}
	return data, nil
}

// Unselect implements the end of a selection by UNSELECT, CLOSE and SELECT.
func (s *session) Unselect() error {
	unlock := s.lock()
	defer unlock()
	s.unselect()
	return nil
}

// unselect is called with the turn.
func (s *session) unselect() {
	if s.sel != nil {
		s.sel.box.Close()
	}
	s.sel, s.saved = nil, nil
}

// begin takes what happened into the view, and tells the client of new messages
// and keywords, which is allowed at any time, so that every command sees what
// this node answered before. It is called with the turn.
func (s *session) begin() (*selection, error) {
	if s.sel == nil {
		return nil, errNotSelected
	}
	s.sel.absorb(nil)
	if s.sel.view.dropped {
		return nil, s.byeDropped()
	}
	if err := s.tellKeywords(); err != nil {
		return nil, err
	}
	return s.sel, s.tellExists(func(n uint32) error {
		return s.say(append(strconv.AppendUint([]byte("* "), uint64(n), 10), " EXISTS"...))
	})
}

// byeDropped ends the session because its mailbox is gone: no answer about its
// messages would make sense to the client.
func (s *session) byeDropped() error {
	return errors.Join(s.ic.Bye("Selected mailbox was deleted, please connect again"), net.ErrClosed)
}

// update tells the client all it may hear now. It is called with the turn.
func (s *session) update(w *imapserver.UpdateWriter, allowExpunge bool) error {
	v := s.sel.view
	if v.dropped {
		return s.byeDropped()
	}
	if err := s.tellKeywords(); err != nil {
		return err
	}
	if allowExpunge {
		for _, seq := range v.removeGone() {
			if err := w.WriteExpunge(seq); err != nil {
				return err
			}
		}
	}
	if err := s.tellExists(w.WriteNumMessages); err != nil {
		return err
	}
	var flags []imap.Flag
	for _, i := range v.takeDirty() {
		flags = imapFlags(flags, v.msgs[i].Flags)
		if err := w.WriteMessageFlags(uint32(i+1), imap.UID(v.msgs[i].UID), flags); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) tellExists(write func(uint32) error) error {
	v := s.sel.view
	if v.told == len(v.msgs) {
		return nil
	}
	v.told = len(v.msgs)
	return write(uint32(v.told))
}

// tellKeywords sends FLAGS and PERMANENTFLAGS when there is a new keyword: many
// clients refuse a flag they have not heard of (RFC 9051 §7.3.5, §7.1).
func (s *session) tellKeywords() error {
	v := s.sel.view
	if !v.flagsChanged {
		return nil
	}
	v.flagsChanged = false
	line := []byte("* FLAGS (")
	list := make([]byte, 0, 64)
	for _, f := range mailboxFlags(v.keywords) {
		list = append(append(list, f...), ' ')
	}
	line = append(append(line, list[:len(list)-1]...), ')')
	if err := s.say(line); err != nil {
		return err
	}
	if s.sel.readOnly {
		return nil
	}
	line = append(append([]byte("* OK [PERMANENTFLAGS ("), list...), `\*)] There is a new keyword`...)
	return s.say(line)
}

// imapFlags converts flags into the memory of dst.
func imapFlags(dst []imap.Flag, flags []string) []imap.Flag {
	dst = dst[:0]
	for _, f := range flags {
		dst = append(dst, imap.Flag(f))
	}
	return dst
}

// Store implements STORE (RFC 9051 §6.4.6).
func (s *session) Store(w *imapserver.FetchWriter, numSet imap.NumSet, flags *imap.StoreFlags, _ *imap.StoreOptions) error {
	unlock := s.lock()
	defer unlock()
	sel, err := s.begin()
	if err != nil {
		return err
	}
	if sel.readOnly {
		return errReadOnly
	}
	spans, err := sel.view.resolve(numSet, s.saved)
	if err != nil {
		return err
	}
	names, err := flagStrings(flags.Flags, sel.view.keywords)
	if err != nil {
		return err
	}
	op := event.FlagsReplace
	switch flags.Op {
	case imap.StoreFlagsAdd:
		op = event.FlagsAdd
	case imap.StoreFlagsDel:
		op = event.FlagsRemove
	}
	uids, gone := sel.view.ranges(spans, nil)
	own := new(command)
	if len(uids) > 0 {
		if err := sel.box.Store(s.ctx, uids, op, names, 0, own); err != nil {
			return answer(err, false)
		}
	}
	sel.absorb(own)
	if err := s.tellKeywords(); err != nil {
		return err
	}
	if !flags.Silent {
		if err := writeFlags(w, sel.view, spans); err != nil {
			return err
		}
	}
	if _, isUID := numSet.(imap.UIDSet); gone && !isUID {
		return errSomeGone // RFC 2180 §4.2
	}
	return nil
}

// writeFlags tells the flags of messages.
func writeFlags(w *imapserver.FetchWriter, v *view, spans []span) error {
	var flags []imap.Flag
	for _, sp := range spans {
		for i := sp.from; i < sp.to; i++ {
			if v.isGone(i) {
				continue
			}
			m := &v.msgs[i]
			delete(v.dirty, m.UID)
			resp := w.CreateMessage(uint32(i + 1))
			resp.WriteUID(imap.UID(m.UID))
			flags = imapFlags(flags, m.Flags)
			resp.WriteFlags(flags)
			if err := resp.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Expunge implements EXPUNGE (RFC 9051 §6.4.3), UID EXPUNGE (RFC 4315 §2.1), and
// what CLOSE removes.
func (s *session) Expunge(w *imapserver.ExpungeWriter, uids *imap.UIDSet) error {
	unlock := s.lock()
	defer unlock()
	isClose := *w == (imapserver.ExpungeWriter{})
	if isClose && (s.sel == nil || s.sel.readOnly) {
		return nil // RFC 9051 §6.4.1
	}
	sel, err := s.begin()
	if err != nil {
		return err
	}
	if sel.readOnly {
		return errReadOnly
	}
	spans := []span{{0, sel.view.told}}
	if uids != nil {
		if spans, err = sel.view.resolve(*uids, s.saved); err != nil {
			return err
		}
	}
	ranges, _ := sel.view.ranges(spans, func(m *continuity.Message) bool { return hasFlag(m.Flags, flagDeleted) })
	if len(ranges) > 0 {
		if _, err := sel.box.Expunge(s.ctx, ranges, nil); err != nil {
			return answer(err, false)
		}
		sel.absorb(nil)
	}
	for _, seq := range sel.view.removeGone() {
		if err := w.WriteExpunge(seq); err != nil {
			return err
		}
	}
	return nil
}

// Copy implements COPY (RFC 9051 §6.4.7).
func (s *session) Copy(numSet imap.NumSet, dest string) (*imap.CopyData, error) {
	unlock := s.lock()
	defer unlock()
	sel, err := s.begin()
	if err != nil {
		return nil, err
	}
	uids, err := s.toCopy(sel, numSet)
	if err != nil {
		return nil, err
	}
	if len(uids) == 0 {
		return nil, s.checkDest(dest)
	}
	res, err := sel.box.Copy(s.ctx, uids, mailboxName(dest))
	if err != nil {
		return nil, answer(err, true)
	}
	return copyData(res), nil
}

// toCopy returns the messages to copy or move: all of them or none (RFC 9051
// §6.4.7), so that one that is gone refuses the whole.
func (s *session) toCopy(sel *selection, numSet imap.NumSet) ([]event.UIDRange, error) {
	spans, err := sel.view.resolve(numSet, s.saved)
	if err != nil {
		return nil, err
	}
	uids, gone := sel.view.ranges(spans, nil)
	if _, isUID := numSet.(imap.UIDSet); gone && !isUID {
		return nil, errSomeGone
	}
	return uids, nil
}

// checkDest reports a missing destination even when there is nothing to copy.
func (s *session) checkDest(dest string) error {
	_, err := s.user.Status(s.ctx, mailboxName(dest))
	return answer(err, true)
}

// copyData is nil when nothing was copied: COPYUID cannot say that.
func copyData(res continuity.CopyResult) *imap.CopyData {
	if len(res.Source) == 0 || len(res.Source) != len(res.Dest) {
		return nil
	}
	return &imap.CopyData{UIDValidity: res.UIDValidity, SourceUIDs: uidSet(res.Source), DestUIDs: uidSet(res.Dest)}
}

// Move implements MOVE (RFC 9051 §6.4.8).
func (s *session) Move(w *imapserver.MoveWriter, numSet imap.NumSet, dest string) error {
	unlock := s.lock()
	defer unlock()
	sel, err := s.begin()
	if err != nil {
		return err
	}
	if sel.readOnly {
		return errReadOnly
	}
	uids, err := s.toCopy(sel, numSet)
	if err != nil {
		return err
	}
	if len(uids) == 0 {
		return s.checkDest(dest)
	}
	res, err := sel.box.Move(s.ctx, uids, mailboxName(dest))
	if err != nil {
		return answer(err, true)
	}
	if data := copyData(res); data != nil {
		if err := w.WriteCopyData(data); err != nil {
			return err
		}
	}
	sel.absorb(nil)
	for _, seq := range sel.view.removeGone() {
		if err := w.WriteExpunge(seq); err != nil {
			return err
		}
	}
	return nil
}
