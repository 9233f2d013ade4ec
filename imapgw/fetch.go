package imapgw

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"holdfast/continuity"
	"holdfast/event"
	"holdfast/message"
)

// seenPatience is how long FETCH waits for the \Seen it sets by the way. Reading
// goes on without it: readers are served while storage takes no events.
const seenPatience = 5 * time.Second

// seenPause is how long FETCH does not try again when that has failed.
const seenPause = 30 * time.Second

// Fetch implements FETCH (RFC 9051 §6.4.5, RFC 3516).
func (s *session) Fetch(w *imapserver.FetchWriter, numSet imap.NumSet, options *imap.FetchOptions) error {
	unlock := s.lock()
	defer unlock()
	sel, err := s.begin()
	if err != nil {
		return err
	}
	spans, err := sel.view.resolve(numSet, s.saved)
	if err != nil {
		return err
	}
	f := &fetch{s: s, sel: sel, w: w, opt: options}
	_, f.isUID = numSet.(imap.UIDSet)
	f.plan()
	defer func() { f.first.close() }()
	if f.setsSeen && !sel.readOnly && len(spans) > 0 {
		if err := f.markSeen(spans); err != nil {
			return err
		}
	}
	if !f.needsIndex {
		return f.scan(spans)
	}
	for _, sp := range spans {
		for i := sp.from; i < sp.to; i++ {
			if err := f.one(i); err != nil {
				return err
			}
		}
	}
	return answer(f.partly, false)
}

// scan answers a FETCH of what the view holds: flags above all, which clients
// fetch of a whole mailbox when they open it. The lines are written past the
// library, many at a time: 100,000 of them one by one are as many allocations of
// an encoder, and under TLS as many records.
func (f *fetch) scan(spans []span) error {
	const enough = 32 << 10
	buf := make([]byte, 0, enough+4096)
	out := f.s.ic.NetConn()
	for _, sp := range spans {
		for i := sp.from; i < sp.to; i++ {
			buf = f.appendLine(buf, i)
			if len(buf) < enough {
				continue
			}
			if _, err := out.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	if len(buf) == 0 {
		return nil
	}
	_, err := out.Write(buf)
	return err
}

// appendLine appends the FETCH response with what the view holds of message i.
func (f *fetch) appendLine(b []byte, i int) []byte {
	m := &f.sel.view.msgs[i]
	b = append(strconv.AppendUint(append(b, "* "...), uint64(i+1), 10), " FETCH ("...)
	if f.opt.UID {
		b = append(strconv.AppendUint(append(b, "UID "...), uint64(m.UID), 10), ' ')
	}
	if f.opt.Flags {
		b = append(b, "FLAGS ("...)
		for k, flag := range m.Flags {
			if k > 0 {
				b = append(b, ' ')
			}
			b = append(b, flag...)
		}
		b = append(b, ") "...)
		if len(f.sel.view.dirty) > 0 {
			delete(f.sel.view.dirty, m.UID)
		}
	}
	if f.opt.InternalDate {
		at := time.UnixMilli(int64(m.Date)).UTC()
		b = append(at.AppendFormat(append(b, `INTERNALDATE "`...), "_2-Jan-2006 15:04:05 -0700"), `" `...)
	}
	if f.opt.RFC822Size {
		b = append(strconv.AppendInt(append(b, "RFC822.SIZE "...), m.Size, 10), ' ')
	}
	if b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return append(b, ")\r\n"...)
}

// fetch is one FETCH command.
type fetch struct {
	s     *session
	sel   *selection
	w     *imapserver.FetchWriter
	opt   *imap.FetchOptions
	isUID bool

	needsIndex, needsBytes, setsSeen bool

	first *loaded                // the first message, when it was loaded ahead
	seen  map[event.UID]struct{} // messages that this command made \Seen
	flags []imap.Flag            // scratch
	// partly is why some messages could not be shown.
	partly error
}

func (f *fetch) plan() {
	o := f.opt
	f.needsBytes = len(o.BodySection)+len(o.BinarySection)+len(o.BinarySectionSize) > 0
	f.needsIndex = f.needsBytes || o.Envelope || o.BodyStructure != nil
	for _, b := range o.BodySection {
		f.setsSeen = f.setsSeen || !b.Peek
	}
	for _, b := range o.BinarySection {
		f.setsSeen = f.setsSeen || !b.Peek
	}
}

// markSeen sets \Seen on the messages that do not have it, in one go before
// they are shown, so that each comes with its new flags.
func (f *fetch) markSeen(spans []span) error {
	if time.Now().Before(f.s.seenAgain) {
		return nil
	}
	var err error
	if f.first, err = f.load(spans[0].from); err != nil {
		return nil // when reading fails nothing will have been seen; one says so
	}
	f.seen = map[event.UID]struct{}{}
	uids, _ := f.sel.view.ranges(spans, func(m *continuity.Message) bool {
		if hasFlag(m.Flags, flagSeen) {
			return false
		}
		f.seen[m.UID] = struct{}{}
		return true
	})
	if len(uids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(f.s.ctx, seenPatience)
	defer cancel()
	own := new(command)
	if err := f.sel.box.Store(ctx, uids, event.FlagsAdd, []string{flagSeen}, 0, own); err != nil {
		f.s.srv.log.Debug("IMAP FETCH could not set \\Seen", "messages", len(f.seen))
		clear(f.seen)
		f.s.seenAgain = time.Now().Add(seenPause)
		own = nil
	}
	f.sel.absorb(own)
	return f.s.tellKeywords()
}

// loaded is what FETCH needs of one message.
type loaded struct {
	i     int
	ix    *message.Index
	r     io.ReadSeekCloser
	parts []literal
}

func (l *loaded) close() {
	if l != nil && l.r != nil {
		_ = l.r.Close() // it was only read
	}
}

// load gets what is needed of message i; all that is small is at hand then.
func (f *fetch) load(i int) (*loaded, error) {
	l := &loaded{i: i}
	m := f.sel.view.msgs[i]
	var err error
	if l.ix, err = f.sel.box.Index(f.s.ctx, m); err != nil {
		return nil, err
	}
	if !f.needsBytes {
		return l, nil
	}
	if l.r, err = f.sel.box.Open(f.s.ctx, m); err != nil {
		return nil, err
	}
	if l.parts, err = f.literals(l.ix, l.r); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// one shows one message. Its error ends the command; what only hinders this
// message goes to partly.
func (f *fetch) one(i int) error {
	l := f.first
	f.first = nil
	if l == nil || l.i != i {
		l.close()
		var err error
		if l, err = f.load(i); err != nil {
			return f.skip(err)
		}
	}
	defer l.close()
	return f.write(i, &f.sel.view.msgs[i], l.ix, l.parts)
}

// skip notes that a message cannot be shown.
func (f *fetch) skip(err error) error {
	var own *imap.Error
	if errors.As(err, &own) {
		return err
	}
	if f.isUID && errors.Is(err, continuity.ErrNoMessage) {
		return nil // a UID that does not exist (any more) is passed over
	}
	f.partly = err
	reply := answer(err, false)
	if errors.As(reply, &own) && own.Code == imap.ResponseCodeUnavailable {
		return reply // the next ones will not fare better
	}
	return nil
}

// write sends the FETCH response of one message.
func (f *fetch) write(i int, m *continuity.Message, ix *message.Index, parts []literal) error {
	resp := f.w.CreateMessage(uint32(i + 1))
	if f.opt.UID {
		resp.WriteUID(imap.UID(m.UID))
	}
	_, seen := f.seen[m.UID]
	if f.opt.Flags || seen {
		f.flags = imapFlags(f.flags, m.Flags)
		resp.WriteFlags(f.flags)
		delete(f.sel.view.dirty, m.UID)
	}
	if f.opt.InternalDate {
		resp.WriteInternalDate(time.UnixMilli(int64(m.Date)).UTC())
	}
	if f.opt.RFC822Size {
		resp.WriteRFC822Size(m.Size)
	}
	if f.opt.Envelope {
		resp.WriteEnvelope(envelope(&ix.Envelope))
	}
	if f.opt.BodyStructure != nil {
		resp.WriteBodyStructure(bodyStructure(&ix.Root))
	}
	for _, p := range parts {
		if err := p.write(resp); err != nil {
			// The client waits for the rest of the literal and would take
			// anything for it: all that is left is to hang up.
			f.s.nc.abort()
			return errors.Join(errBroken, err, resp.Close())
		}
	}
	return resp.Close()
}

// literal is a piece of a message, ready to be sent.
type literal struct {
	body   *imap.FetchItemBodySection
	binary *imap.FetchItemBinarySection
	sizeOf *imap.FetchItemBinarySectionSize

	size int64
	// data holds all of it, or else open gives a reader of size bytes.
	data []byte
	open func() (io.Reader, error)
}

func (p *literal) write(resp *imapserver.FetchResponseWriter) error {
	var wc io.WriteCloser
	switch {
	case p.sizeOf != nil:
		resp.WriteBinarySectionSize(p.sizeOf, uint32(p.size))
		return nil
	case p.body != nil:
		wc = resp.WriteBodySection(p.body, p.size)
	default:
		wc = resp.WriteBinarySection(p.binary, p.size)
	}
	err := p.copyTo(wc)
	return errors.Join(err, wc.Close())
}

func (p *literal) copyTo(w io.Writer) error {
	if p.open == nil {
		_, err := w.Write(p.data)
		return err
	}
	r, err := p.open()
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, r, p.size)
	return err
}
