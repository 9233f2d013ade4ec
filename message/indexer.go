package message

import (
	"bytes"
	"encoding/binary"
)

// Indexer reads one message as it is written to it, in pieces of any size: the
// result depends on the bytes alone. It keeps the wanted fields of the headers
// it is in and the index so far, within the limits of this package. It is for
// one goroutine.
type Indexer struct {
	ix Index

	// pos is where the current line begins, lines how many LFs are before it,
	// and prevEnd the length of the line end right before it.
	pos     int64
	lines   int64
	prevEnd int64
	// line is the kept beginning of a current line of which only lineLen
	// bytes were written yet; last is the last of those.
	line    []byte
	lineLen int64
	last    byte

	crs   int64 // CRs seen
	crlfs int64 // line ends that are CRLF

	// stack holds the open parts, outermost first. The last one is being
	// read, and inHeader tells whether that is its header.
	stack    []*openPart
	inHeader bool
	// bounds holds the delimiters of open multiparts, outermost first.
	bounds []boundary
	// fresh is where the last header or delimiter line ended. The line end
	// before that place belongs to it and not to a delimiter behind it.
	fresh int64
	// afterBlank tells that this was the blank line of a header.
	afterBlank bool

	parts       int
	headerLeft  int
	addressLeft int
	done        bool
}

// openPart is a part whose end has not been seen.
type openPart struct {
	part      Part
	envelope  *Envelope // of a message, else nil
	bodyLines int64     // LFs before its body
	header    headerFields
	isMIME    bool
	inDigest  bool
}

// NewIndexer returns an Indexer for one message.
func NewIndexer() *Indexer {
	x := &Indexer{headerLeft: MaxHeaderBytes, addressLeft: MaxAddresses}
	x.open(&openPart{envelope: &Envelope{}}, 0)
	return x
}

// Write reads the next bytes of the message. It never fails and keeps no
// reference to p. It must not be called after Finish.
func (x *Indexer) Write(p []byte) (int, error) {
	if x.done {
		panic("internal error: message: Write after Finish")
	}
	n := len(p)
	x.crs += int64(bytes.Count(p, []byte{'\r'}))
	x.ix.HasNUL = x.ix.HasNUL || bytes.IndexByte(p, 0) >= 0
	x.ix.Is8bit = x.ix.Is8bit || has8bit(p)
	x.ix.Size += int64(n)

	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			x.hold(p)
			break
		}
		before := x.last
		if i > 0 {
			before = p[i-1]
		}
		end := int64(1)
		if before == '\r' && (i > 0 || x.lineLen > 0) {
			end = 2
		}
		if x.lineLen == 0 {
			x.endLine(p[:i+1], int64(i+1), end)
		} else {
			x.hold(p[:i+1])
			x.endLine(x.line, x.lineLen, end)
			x.line, x.lineLen = x.line[:0], 0
		}
		p = p[i+1:]
	}
	return n, nil
}

// has8bit reports whether any byte of p is above 127.
func has8bit(p []byte) bool {
	const high = 0x8080808080808080
	for len(p) >= 32 {
		if (binary.LittleEndian.Uint64(p)|binary.LittleEndian.Uint64(p[8:])|
			binary.LittleEndian.Uint64(p[16:])|binary.LittleEndian.Uint64(p[24:]))&high != 0 {
			return true
		}
		p = p[32:]
	}
	for _, c := range p {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

// hold keeps as much of an incomplete line as its reading may need.
func (x *Indexer) hold(p []byte) {
	limit := boundaryLine
	if x.inHeader {
		limit = x.headerLeft + maxFieldName
	}
	if room := limit - len(x.line); room > 0 {
		x.line = append(x.line, p[:min(room, len(p))]...)
	}
	x.lineLen += int64(len(p))
	x.last = p[len(p)-1]
}

// endLine reads a line of n bytes, the last end of which are its line end: 0
// at the end of the message. Of a long line only the beginning may be given.
func (x *Indexer) endLine(line []byte, n, end int64) {
	x.ix.LongestLine = max(x.ix.LongestLine, n-end)
	if end == 2 {
		x.crlfs++
	} else if end == 1 {
		x.ix.HasBareLF = true
	}
	switch {
	case x.inHeader:
		x.headerLine(line, n, end)
	case len(x.bounds) > 0 && len(line) > 1 && line[0] == '-' && line[1] == '-':
		x.delimiterLine(line, n, end)
	default:
		x.advance(n, end)
	}
}

// advance goes on to the next line.
func (x *Indexer) advance(n, end int64) {
	x.pos += n
	x.prevEnd = end
	if end > 0 {
		x.lines++
	}
}

func (x *Indexer) top() *openPart { return x.stack[len(x.stack)-1] }

// open begins a part at offset, with its header.
func (x *Indexer) open(o *openPart, offset int64) {
	o.part.Offset = offset
	x.parts++
	x.stack = append(x.stack, o)
	x.inHeader = true
}

// closeDown ends all open parts but the outermost depth of them. Their bodies
// end at the given offset, with the given number of LFs before it.
func (x *Indexer) closeDown(depth int, end, lines int64) {
	for len(x.stack) > depth {
		o := x.top()
		off, _ := o.part.Body()
		o.part.BodyLen = max(0, end-off)
		o.part.Lines = max(0, lines-o.bodyLines)
		x.stack = x.stack[:len(x.stack)-1]
		switch {
		case len(x.stack) == 0:
			x.ix.Root, x.ix.Envelope = o.part, *o.envelope
		case o.envelope != nil:
			x.top().part.Message = &Embedded{Envelope: *o.envelope, Root: o.part}
		default:
			parent := x.top()
			parent.part.Children = append(parent.part.Children, o.part)
		}
	}
}

// headerLine reads a line while in a header.
func (x *Indexer) headerLine(line []byte, n, end int64) {
	o := x.top()
	if n == end {
		x.advance(n, end)
		o.part.HeaderLen = x.pos - o.part.Offset
		x.endHeader(true)
		return
	}
	if found, closing := x.match(line); found >= 0 {
		x.interruptHeader()
		x.delimit(found, closing, x.pos, x.lines, n, end)
		return
	}
	x.keepHeaderLine(o, line, n, end)
	x.advance(n, end)
}

// interruptHeader ends the current header before a delimiter that stands
// inside it, or right behind the blank line. The line end before the delimiter
// is part of the delimiter (RFC 2046 §5.1.1), so not of the header.
func (x *Indexer) interruptHeader() {
	depth := len(x.stack) - 1
	at := x.pos
	switch o := x.top(); {
	case o.header.lines > 0:
		at -= x.prevEnd
	case o.envelope != nil && depth > 0:
		// The message in a part was opened at the blank line of that part.
		depth--
		at -= x.prevEnd
		x.stack[depth].part.HeaderLen -= x.prevEnd
		o.part.Offset = at
	}
	for x.inHeader {
		o := x.top()
		o.part.HeaderLen = at - o.part.Offset
		x.endHeader(false)
	}
	x.closeDown(depth, at, 0)
}

// delimiterLine reads a line of a body that begins like a delimiter.
func (x *Indexer) delimiterLine(line []byte, n, end int64) {
	found, closing := x.match(line)
	if found < 0 {
		x.advance(n, end)
		return
	}
	bodyEnd, lines := x.pos, x.lines
	switch depth := x.bounds[found].depth; {
	case x.pos == x.fresh && x.afterBlank && depth < len(x.stack):
		o := x.top()
		o.part.HeaderLen -= x.prevEnd
		x.closeDown(len(x.stack)-1, x.pos-x.prevEnd, o.bodyLines)
	case x.pos != x.fresh:
		// RFC 2046 §5.1.1: the line end before a delimiter belongs to it.
		bodyEnd -= x.prevEnd
		lines--
	}
	x.delimit(found, closing, bodyEnd, lines, n, end)
}

func (x *Indexer) match(line []byte) (found int, closing bool) {
	return matchBoundary(x.bounds, line[:min(len(line), boundaryLine)])
}

// delimit acts on the delimiter line of x.bounds[found], which ends the parts
// inside that multipart and begins its next part or its epilogue.
func (x *Indexer) delimit(found int, closing bool, bodyEnd, lines, n, end int64) {
	x.closeDown(x.bounds[found].depth, bodyEnd, lines)
	x.advance(n, end)
	x.fresh, x.afterBlank = x.pos, false
	x.inHeader = false
	if closing {
		x.bounds = x.bounds[:found]
		return
	}
	x.bounds = x.bounds[:found+1]
	if end == 0 {
		return // the message ends in the delimiter: there is no part behind it
	}
	if x.parts >= MaxParts {
		x.openRest()
		return
	}
	x.open(&openPart{isMIME: true, inDigest: isDigest(&x.top().part)}, x.pos)
}

// openRest opens the part that holds all that is left of a message with too
// many parts.
func (x *Indexer) openRest() {
	x.ix.Truncated = true
	o := &openPart{bodyLines: x.lines}
	o.part.setOpaque()
	x.open(o, x.pos)
	x.inHeader = false
	x.bounds = nil
}

// endHeader reads the fields of the header that has just ended and decides
// what its body is. blank tells that it ended with a blank line: only then can
// delimiters of its own follow.
func (x *Indexer) endHeader(blank bool) {
	o := x.top()
	x.inHeader = false
	off, _ := o.part.Body()
	x.fresh, x.afterBlank = off, blank
	o.bodyLines = x.lines
	delimiter := x.readFields(o)

	container := delimiter != nil || isMessage(&o.part)
	if container && (len(x.stack) > MaxDepth || x.parts >= MaxParts) {
		x.ix.Truncated = true
		o.part.setOpaque()
		return
	}
	switch {
	case isMessage(&o.part):
		x.open(&openPart{envelope: &Envelope{}}, off)
	case delimiter != nil && blank:
		x.bounds = append(x.bounds, boundary{
			text: delimiter[:min(len(delimiter), maxBoundary)], depth: len(x.stack),
		})
	}
}

// Finish ends the message and returns its index. Calling it again returns the
// same index.
func (x *Indexer) Finish() *Index {
	if x.done {
		return &x.ix
	}
	x.done = true
	if x.lineLen > 0 {
		x.endLine(x.line, x.lineLen, 0)
		x.line, x.lineLen = nil, 0
	}
	for x.inHeader {
		o := x.top()
		o.part.HeaderLen = x.pos - o.part.Offset
		x.endHeader(false)
	}
	x.closeDown(0, x.pos, x.lines)
	x.ix.Lines = x.lines
	x.ix.HasBareCR = x.crs != x.crlfs
	return &x.ix
}

// ReadIndex returns the index of a message that is in memory.
func ReadIndex(message []byte) *Index {
	x := NewIndexer()
	_, _ = x.Write(message) // never fails
	return x.Finish()
}
