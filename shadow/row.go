package shadow

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
)

// Limits of what a row keeps of a message. A longer text is cut, and of more
// addresses the first are kept; what is cut off is not found.
const (
	maxSubject   = 2000
	maxMessageID = 998 // RFC 5322 §2.1.1: no longer fits one line
	maxDate      = 100
	maxAddress   = 320
	maxFrom      = 16
	maxTo        = 16
	maxFiledTo   = 256 // of what a user put into a mailbox
)

// row is one message as a block holds it, without its states.
type row struct {
	id       event.ID
	ref      event.Ref // where the message is read
	order    order
	received event.Millis
	origin   event.Origin
	size     int64
	from     string
	rcpts    []rcpt
	hdrFrom  []string
	hdrTo    []string
	subject  string
	msgID    string
	date     string

	// Not stored with the row.
	shelf    shelfID
	states   []state
	selected []bool
}

type rcpt struct {
	path, domain string
	outside      bool
	via          string
}

// carrier is the domain whose route carries the recipient's mail.
func (r rcpt) carrier() string {
	if r.outside {
		return r.via
	}
	return r.domain
}

// header is what of a message's index a row is made from; the structure is
// passed over.
type header struct {
	Envelope struct {
		Date      string            `cbor:"1,keyasint"`
		Subject   string            `cbor:"2,keyasint"`
		From      []message.Address `cbor:"3,keyasint"`
		To        []message.Address `cbor:"6,keyasint"`
		Cc        []message.Address `cbor:"7,keyasint"`
		Bcc       []message.Address `cbor:"8,keyasint"`
		MessageID string            `cbor:"10,keyasint"`
	} `cbor:"3,keyasint"`
}

// rowOf makes the row of a message, or nil when its mail cannot be read any more.
func rowOf(r eventlog.Recorded, f event.Fact, o order) *row {
	switch f := f.(type) {
	case *event.MessageAccepted:
		if f.Meta != nil {
			return newRow(r, f, o)
		}
	case *event.Appended:
		if f.Meta != nil {
			return newAppended(r, f, o)
		}
	}
	return nil
}

// newRow makes the row of a message that has not expired. It counts as received
// when its segment was written, so that the order of the log, in which rows are
// shown, is the order of their times.
func newRow(r eventlog.Recorded, f *event.MessageAccepted, o order) *row {
	w := &row{
		id: r.Ref.ID, ref: r.Ref, order: o, received: r.Time, origin: f.Origin, size: f.Size, from: f.Meta.From,
		rcpts: make([]rcpt, len(f.Meta.Recipients)), shelf: shelfID{tenant: r.Tenant, day: r.Expiry},
	}
	for i, c := range f.Meta.Recipients {
		w.rcpts[i] = rcpt{path: c.Path, domain: c.Domain, outside: c.Outside, via: c.Via}
	}
	h := w.readHeader(f.Meta.Index)
	w.hdrTo = addresses(h.Envelope.To, maxTo)
	return w
}

// readHeader takes over what the header says, but for whom it is to, and returns
// the header.
func (w *row) readHeader(index []byte) (h header) {
	if err := event.Unmarshal(index, &h); err != nil {
		// The writer's defect; the envelope is worth finding all the same.
		h = header{}
	}
	e := &h.Envelope
	w.hdrFrom = addresses(e.From, maxFrom)
	w.subject = cut(message.DecodeHeader([]byte(e.Subject)), maxSubject)
	w.msgID = normalID(e.MessageID)
	w.date = cut(e.Date, maxDate)
	return h
}

func addresses(list []message.Address, most int) []string {
	var out []string
	for _, a := range list {
		if len(out) == most {
			break
		}
		if s := a.Addr(); s != "" {
			out = append(out, cut(s, maxAddress))
		}
	}
	return out
}

// public is the row as the world sees it.
func (w *row) public() Row {
	out := Row{
		ID: w.id, Ref: w.ref, Tenant: w.shelf.tenant, Expiry: w.shelf.day,
		Received: time.UnixMilli(int64(w.received)).UTC(), From: w.from,
		Rcpt: make([]string, len(w.rcpts)), State: make([]string, len(w.rcpts)),
		Domain: make([]string, len(w.rcpts)), Outside: make([]bool, len(w.rcpts)), Selected: w.selected,
		HeaderFrom: w.hdrFrom, HeaderTo: w.hdrTo, Subject: w.subject, MessageID: w.msgID, Date: w.date,
		Origin: w.origin, Size: w.size,
	}
	for i, c := range w.rcpts {
		out.Rcpt[i], out.Domain[i], out.Outside[i] = c.path, c.carrier(), c.outside
		out.State[i] = w.states[i].String()
	}
	if out.Selected == nil {
		out.Selected = make([]bool, len(w.rcpts))
		for i := range out.Selected {
			out.Selected[i] = true
		}
	}
	return out
}

// The marks of what a row does not repeat.
const (
	hasDomain = 1 // the recipient's domain is not the one in its path
	isOutside = 2
)

// isKept marks the origin of a message that is not read where it was accepted.
const isKept = 0x80

// append adds the row to b, with its length in front: fixed fields, then
// counted texts. Of a message that cannot be read any more it is an empty text. What can be told from something else is left out, because
// small rows are not compressed and so cost less.
func (w *row) append(b []byte) []byte {
	if w == nil {
		return appendText(b, "")
	}
	r := make([]byte, 0, 256)
	r = append(r, w.id[:]...)
	r = binary.AppendVarint(r, w.order.clock)
	r = appendPosition(r, w.order.pos)
	r = binary.AppendVarint(r, int64(w.received)-w.order.clock*1000)
	if w.ref == (event.Ref{Position: w.order.pos, ID: w.id}) {
		r = append(r, byte(w.origin))
	} else {
		r = appendPosition(append(r, byte(w.origin)|isKept), w.ref.Position)
		r = append(r, w.ref.ID[:]...)
	}
	r = binary.AppendVarint(r, w.size)
	r = appendText(r, w.from)
	r = binary.AppendUvarint(r, uint64(len(w.rcpts)))
	for _, c := range w.rcpts {
		r = c.append(r)
	}
	r = binary.AppendUvarint(r, uint64(len(w.hdrFrom)))
	for _, s := range w.hdrFrom {
		r = appendUnless(r, s, w.from)
	}
	r = binary.AppendUvarint(r, uint64(len(w.hdrTo)))
	for i, s := range w.hdrTo {
		like := ""
		if i < len(w.rcpts) {
			like = w.rcpts[i].path
		}
		r = appendUnless(r, s, like)
	}
	r = appendText(appendText(appendText(r, w.subject), w.msgID), w.date)
	return append(binary.AppendUvarint(b, uint64(len(r))), r...)
}

func appendPosition(b []byte, p event.Position) []byte {
	b = binary.AppendUvarint(append(b, byte(p.Partition)), uint64(p.Seq))
	return binary.AppendUvarint(b, uint64(p.Index))
}

func (c rcpt) append(b []byte) []byte {
	var marks byte
	if c.domain != pathDomain(c.path) {
		marks |= hasDomain
	}
	if c.outside {
		marks |= isOutside
	}
	b = appendText(append(b, marks), c.path)
	if marks&hasDomain != 0 {
		b = appendText(b, c.domain)
	}
	if marks&isOutside != 0 {
		b = appendText(b, c.via)
	}
	return b
}

func pathDomain(path string) string { return path[strings.LastIndexByte(path, '@')+1:] }

// appendUnless adds an empty text in place of one that is known. None of these
// texts is empty itself.
func appendUnless(b []byte, s, known string) []byte {
	if s == known {
		s = ""
	}
	return appendText(b, s)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader reads what append wrote. Texts share the memory of what it reads.
type reader struct {
	s   string
	bad bool
}

func (r *reader) bytes(n uint64) string {
	if r.bad || n > uint64(len(r.s)) {
		r.bad, r.s = true, ""
		return ""
	}
	b := r.s[:n]
	r.s = r.s[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	var x uint64
	for i := range min(len(r.s), binary.MaxVarintLen64) {
		c := r.s[i]
		x |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.s = r.s[i+1:]
			return x
		}
	}
	r.bad, r.s = true, ""
	return 0
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != "" {
		return b[0]
	}
	return 0
}

func (r *reader) text() string { return r.bytes(r.uvarint()) }

// count reads a number of elements, each of which takes at least a byte.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.s)) {
		r.bad, r.s = true, ""
		return 0
	}
	return int(n)
}

func (r *reader) texts() []string {
	n := r.count()
	if n == 0 {
		return nil
	}
	out := make([]string, n)
	for i := range out {
		out[i] = r.text()
	}
	return out
}

func (r *reader) position() event.Position {
	return event.Position{Partition: event.Partition(r.byte()), Seq: event.Seq(r.uvarint()), Index: uint32(r.uvarint())}
}

func (r *reader) row() *row {
	w := new(row)
	copy(w.id[:], r.bytes(16))
	w.order.clock = r.varint()
	w.order.pos = r.position()
	w.received = event.Millis(r.varint() + w.order.clock*1000)
	w.ref = event.Ref{Position: w.order.pos, ID: w.id}
	origin := r.byte()
	w.origin = event.Origin(origin &^ isKept)
	if origin&isKept != 0 {
		w.ref.Position = r.position()
		copy(w.ref.ID[:], r.bytes(16))
	}
	w.size = r.varint()
	w.from = r.text()
	w.rcpts = make([]rcpt, r.count())
	for i := range w.rcpts {
		c := &w.rcpts[i]
		marks := r.byte()
		c.path = r.text()
		c.domain = pathDomain(c.path)
		if marks&hasDomain != 0 {
			c.domain = r.text()
		}
		if marks&isOutside != 0 {
			c.outside, c.via = true, r.text()
		}
	}
	w.hdrFrom, w.hdrTo = r.texts(), r.texts()
	for i, s := range w.hdrFrom {
		if s == "" {
			w.hdrFrom[i] = w.from
		}
	}
	for i, s := range w.hdrTo {
		if s == "" && i < len(w.rcpts) {
			w.hdrTo[i] = w.rcpts[i].path
		}
	}
	w.subject, w.msgID, w.date = r.text(), r.text(), r.text()
	r.bad = r.bad || r.s != ""
	return w
}

// everyRow stands for all quarters of a block.
const everyRow = 1<<quarters - 1

// parseRows reads the rows of a block, or of a part of it that begins at its
// first row. The rows of quarters that are not wanted are nil.
func parseRows(plain []byte, want uint8) ([]*row, error) {
	r := &reader{s: string(plain)}
	out := make([]*row, 0, blockRows)
	for r.s != "" && !r.bad {
		one := &reader{s: r.text()}
		if one.s == "" || want>>(len(out)/quarterRows)&1 == 0 {
			out = append(out, nil)
			continue
		}
		out = append(out, one.row())
		r.bad = r.bad || one.bad
	}
	if r.bad {
		return nil, fmt.Errorf("block of %d bytes: %w", len(plain), event.ErrMalformed)
	}
	return out, nil
}
