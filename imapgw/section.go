package imapgw

import (
	"bytes"
	"fmt"
	"io"

	"github.com/emersion/go-imap/v2"

	"holdfast/message"
)

// atOnce is the size up to which a section is read before its length is
// announced, so that failing storage gives a NO and not a broken connection.
const atOnce = 256 << 10

// literals prepares what FETCH wants of a message whose bytes are r.
func (f *fetch) literals(ix *message.Index, r io.ReadSeeker) ([]literal, error) {
	var out []literal
	for _, b := range f.opt.BodySection {
		p, err := bodySection(ix, r, b)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	for _, b := range f.opt.BinarySection {
		p, err := binarySection(ix, r, b.Part, b.Partial)
		if err != nil {
			return nil, err
		}
		p.binary = b
		out = append(out, p)
	}
	for _, b := range f.opt.BinarySectionSize {
		p, err := binarySection(ix, r, b.Part, nil)
		if err != nil {
			return nil, err
		}
		p.sizeOf = b
		out = append(out, p)
	}
	return out, nil
}

// specifier translates what part of a part is wanted.
func specifier(s imap.PartSpecifier) message.Specifier {
	switch s {
	case imap.PartSpecifierHeader:
		return message.Header
	case imap.PartSpecifierText:
		return message.Text
	case imap.PartSpecifierMIME:
		return message.MIME
	}
	return message.Whole
}

// bodySection prepares BODY[section]<partial>. A section that does not exist is
// empty: the library cannot say NIL.
func bodySection(ix *message.Index, r io.ReadSeeker, b *imap.FetchItemBodySection) (literal, error) {
	off, n, ok := ix.Section(b.Part, specifier(b.Specifier))
	if !ok {
		return literal{body: b}, nil
	}
	if len(b.HeaderFields) == 0 && len(b.HeaderFieldsNot) == 0 {
		p, err := stored(r, off, n, b.Partial)
		p.body = b
		return p, err
	}
	header, err := readRange(r, off, n)
	if err != nil {
		return literal{}, err
	}
	if len(b.HeaderFields) > 0 {
		header = message.FilterHeader(header, b.HeaderFields, false)
	} else {
		header = message.FilterHeader(header, b.HeaderFieldsNot, true)
	}
	from, to := cut(int64(len(header)), b.Partial)
	return literal{body: b, data: header[from:to], size: to - from}, nil
}

// stored prepares n stored bytes from off, or the part of them that is wanted.
func stored(r io.ReadSeeker, off, n int64, partial *imap.SectionPartial) (literal, error) {
	from, to := cut(n, partial)
	off, n = off+from, to-from
	if n <= atOnce {
		data, err := readRange(r, off, n)
		return literal{data: data, size: n}, err
	}
	return literal{size: n, open: func() (io.Reader, error) {
		_, err := r.Seek(off, io.SeekStart)
		return r, err
	}}, nil
}

// cut returns which of n bytes <offset.count> means (RFC 9051 §6.4.5).
func cut(n int64, partial *imap.SectionPartial) (from, to int64) {
	if partial == nil {
		return 0, n
	}
	from = min(max(partial.Offset, 0), n)
	return from, from + min(max(partial.Size, 0), n-from)
}

func readRange(r io.ReadSeeker, off, n int64) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if _, err := r.Seek(off, io.SeekStart); err != nil {
		return nil, fmt.Errorf("seek in message: %w", err)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("read %d bytes of message: %w", n, err)
	}
	return data, nil
}

// binarySection prepares the content of a part without its transfer encoding
// (RFC 3516 §4.2). Containers, and the whole message, have none.
func binarySection(ix *message.Index, r io.ReadSeeker, path []int, partial *imap.SectionPartial) (literal, error) {
	off, n, ok := ix.Section(path, message.Whole)
	if !ok {
		return literal{}, nil
	}
	part := ix.Part(path)
	if len(path) == 0 || part.IsMultipart() || part.Message != nil {
		return stored(r, off, n, partial)
	}
	if !part.IsKnownEncoding() {
		return literal{}, no(imap.ResponseCodeUnknownCTE, "The part has an unknown transfer encoding")
	}
	decoded := func() (io.Reader, error) {
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			return nil, err
		}
		return message.DecodeBody(*part, io.LimitReader(r, n)), nil
	}
	d, err := decoded()
	if err != nil {
		return literal{}, fmt.Errorf("seek in message: %w", err)
	}
	var head bytes.Buffer
	total, err := io.CopyN(&head, d, atOnce)
	if err == nil {
		// It is long: its length is counted now, and it is decoded again when
		// it is sent.
		var rest int64
		rest, err = io.Copy(io.Discard, d)
		total += rest
	} else if err == io.EOF {
		err = nil
	}
	if err != nil {
		return literal{}, fmt.Errorf("decode part: %w", err)
	}
	from, to := cut(total, partial)
	if int64(head.Len()) >= to {
		return literal{data: head.Bytes()[from:to], size: to - from}, nil
	}
	return literal{size: to - from, open: func() (io.Reader, error) {
		d, err := decoded()
		if err == nil {
			_, err = io.CopyN(io.Discard, d, from)
		}
		return d, err
	}}, nil
}
