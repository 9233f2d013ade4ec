package message

// Specifier is the text part of an IMAP section: what of a part is wanted
// (RFC 9051 §6.4.5.1).
type Specifier uint8

// The specifiers. HEADER.FIELDS is [Header] passed through [FilterHeader].
const (
	// Whole is the part itself: BODY[], or BODY[1.2], the body of a part.
	Whole Specifier = iota + 1
	// Header is the header of the message, or of the message in a part.
	Header
	// Text is the body of the message, or of the message in a part.
	Text
	// MIME is the header of a part.
	MIME
)

// Section returns where the bytes of an IMAP section lie in the message, and
// ok if there is such a section. An empty path means the message itself.
func (ix *Index) Section(path []int, spec Specifier) (off, n int64, ok bool) {
	if len(path) == 0 {
		switch spec {
		case Whole:
			return 0, ix.Size, true
		case Header:
			return 0, ix.Root.HeaderLen, true
		case Text:
			off, n = ix.Root.Body()
			return off, n, true
		}
		return 0, 0, false
	}
	p := ix.Part(path)
	if p == nil {
		return 0, 0, false
	}
	switch spec {
	case Whole:
		off, n = p.Body()
		return off, n, true
	case MIME:
		return p.Offset, p.HeaderLen, true
	case Header, Text:
		if p.Message == nil {
			return 0, 0, false
		}
		root := &p.Message.Root
		if spec == Header {
			return root.Offset, root.HeaderLen, true
		}
		off, n = root.Body()
		return off, n, true
	}
	return 0, 0, false
}

// HeaderRange returns where the header of the message lies, with the blank
// line that ends it.
func (ix *Index) HeaderRange() (off, n int64) { return 0, ix.Root.HeaderLen }

// Part returns the part with an IMAP part path, or nil. The parts of a
// multipart are numbered from 1; a message that is no multipart has one part,
// 1, which is its body; the parts of a message in a part follow the number of
// that part.
func (ix *Index) Part(path []int) *Part {
	if len(path) == 0 {
		return &ix.Root
	}
	p := &ix.Root
	inMessage := true // the next number counts within a message
	for _, number := range path {
		if !inMessage && p.Message != nil {
			p, inMessage = &p.Message.Root, true
		}
		switch {
		case p.IsMultipart():
			if number < 1 || number > len(p.Children) {
				return nil
			}
			p = &p.Children[number-1]
		case !inMessage || number != 1:
			return nil
		}
		inMessage = false
	}
	return p
}
