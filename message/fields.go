package message

import (
	"bytes"
	"strings"
)

// maxFieldName is how far into a line a colon is looked for. RFC 5322 §2.1.1
// has lines of at most 998 characters.
const maxFieldName = 1024

// fieldCost is charged for each field kept, beside its text, so that a message
// of empty fields does not take a multiple of its size.
const fieldCost = 64

// headerFields collects the fields of one header that the index is made from.
type headerFields struct {
	lines  int
	fields []headerField
	// folding tells that continuation lines belong to the last field kept.
	folding bool
}

type headerField struct {
	name  string // lower case
	value []byte // folded lines are joined by LF
}

// wantedField returns the name in lower case if the index is made from fields
// of that name, else "". Those of the second kind count only in a message.
func wantedField(name []byte, inMessage bool) string {
	var lower [len("content-transfer-encoding")]byte
	if len(name) > len(lower) {
		return ""
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		lower[i] = c
	}
	switch n := lower[:len(name)]; string(n) {
	case "mime-version", "content-type", "content-transfer-encoding", "content-id",
		"content-description", "content-md5", "content-disposition",
		"content-language", "content-location":
		return string(n)
	case "date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc",
		"in-reply-to", "message-id", "references", "received":
		if inMessage {
			return string(n)
		}
	}
	return ""
}

// keepHeaderLine keeps a header line of o if the index needs it.
func (x *Indexer) keepHeaderLine(o *openPart, line []byte, n, end int64) {
	h := &o.header
	h.lines++
	if int64(len(line)) > n-end {
		line = line[:n-end]
	}
	if h.lines > 1 && (line[0] == ' ' || line[0] == '\t') {
		if h.folding {
			f := &h.fields[len(h.fields)-1]
			f.value = append(append(f.value, '\n'), x.charge(line)...)
			h.folding = x.headerLeft > 0
			x.ix.Truncated = x.ix.Truncated || !h.folding
		}
		return
	}
	h.folding = false
	colon := bytes.IndexByte(line[:min(len(line), maxFieldName)], ':')
	if colon < 0 {
		return
	}
	name := wantedField(bytes.TrimRight(line[:colon], " \t"), o.envelope != nil)
	if name == "" {
		return
	}
	isTop := len(x.stack) == 1
	if name == "received" {
		if isTop {
			x.ix.Hops++
		}
		return
	}
	if name == "references" && !isTop {
		return
	}
	if x.headerLeft < fieldCost {
		x.ix.Truncated = true
		return
	}
	x.headerLeft -= fieldCost
	h.folding = true
	value := bytes.Clone(x.charge(line[colon+1:]))
	h.fields = append(h.fields, headerField{name: name, value: value})
}

// charge takes line from what may be kept of headers, and cuts it if need be.
func (x *Indexer) charge(line []byte) []byte {
	if len(line) > x.headerLeft {
		line = line[:x.headerLeft]
		x.ix.Truncated = true
	}
	x.headerLeft -= len(line)
	return line
}

// readFields sets what the fields of o say of it and forgets them. It returns
// the delimiter of a multipart, or nil.
func (x *Indexer) readFields(o *openPart) (delimiter []byte) {
	fields := o.header.fields
	o.header = headerFields{lines: o.header.lines}
	hasType := false
	for _, f := range fields {
		switch f.name {
		case "mime-version":
			o.isMIME = true
		case "content-type":
			o.isMIME, hasType = true, true
		}
	}
	p := &o.part
	for _, f := range fields {
		if strings.HasPrefix(f.name, "content-") {
			// Without MIME-Version or Content-Type a message is no MIME
			// message, and other Content fields mean nothing.
			if o.isMIME {
				if d := p.readContentField(f); d != nil {
					delimiter = d
				}
			}
		} else if o.envelope != nil {
			x.readEnvelopeField(o.envelope, f)
		}
	}
	p.setDefaults(hasType, o.inDigest)
	return delimiter
}

// readContentField reads a field that describes the part. Of fields that stand
// twice the first counts.
func (p *Part) readContentField(f headerField) (delimiter []byte) {
	switch f.name {
	case "content-type":
		if p.Type != "" {
			return nil
		}
		params := p.setType(f.value)
		if !p.IsMultipart() {
			return nil
		}
		for _, param := range params {
			if strings.EqualFold(param.name, "boundary") {
				// An empty delimiter is one: it matches every "--".
				return append([]byte{}, param.value...)
			}
		}
	case "content-transfer-encoding":
		if p.Encoding == "" {
			p.Encoding = transferEncoding(f.value)
		}
	case "content-disposition":
		if p.DispositionParams == nil {
			if d, params, ok := disposition(f.value); ok {
				if d == "" && params != nil {
					// RFC 2183 §2.8: what is not known is an attachment.
					d = "attachment"
				}
				p.Disposition, p.DispositionParams = d, cleanParams(params)
			}
		}
	case "content-language":
		if p.Language == nil {
			p.Language = languages(f.value)
		}
	case "content-id":
		setFirst(&p.ID, f.value)
	case "content-description":
		setFirst(&p.Description, f.value)
	case "content-md5":
		setFirst(&p.MD5, f.value)
	case "content-location":
		setFirst(&p.Location, f.value)
	}
	return nil
}

// setType sets what a Content-Type field says. One that is broken never makes
// a container. If it names a type, that still stands; otherwise the part is
// plain text (RFC 2045 §5.2).
func (p *Part) setType(value []byte) []rawParam {
	typ, subtype, params, ok := contentType(value)
	p.Type, p.Subtype, p.Params = typ, subtype, cleanParams(params)
	if ok {
		return params
	}
	switch {
	case p.IsMultipart(), strings.EqualFold(typ, "message"):
		p.Type, p.Subtype = "application", "octet-stream"
	case typ != "" && subtype != "":
	case strings.EqualFold(typ, "text"), typ == "":
		p.Type, p.Subtype = "text", "plain"
	default:
		p.Subtype = "unknown"
	}
	return nil
}

func setFirst(s *string, value []byte) {
	if *s == "" {
		*s = fieldText(value)
	}
}

// setDefaults fills in what a header leaves out (RFC 2045 §5.2, RFC 2046
// §5.1.5).
func (p *Part) setDefaults(hasType, inDigest bool) {
	switch {
	case p.Type == "" && !hasType && inDigest:
		p.Type, p.Subtype = "message", "rfc822"
	case p.Type == "":
		p.Type, p.Subtype = "text", "plain"
	}
	if p.Encoding == "" {
		p.Encoding = "7bit"
	}
	if !strings.EqualFold(p.Type, "text") {
		return
	}
	for _, param := range p.Params {
		if strings.EqualFold(param.Name, "charset") {
			return
		}
	}
	p.Params = append(p.Params, Param{Name: "charset", Value: "us-ascii"})
}

// setOpaque makes p a part that is not looked into.
func (p *Part) setOpaque() {
	p.Type, p.Subtype, p.Params = "application", "octet-stream", nil
	if p.Encoding == "" {
		p.Encoding = "7bit"
	}
}

func isMessage(p *Part) bool {
	return strings.EqualFold(p.Type, "message") &&
		(strings.EqualFold(p.Subtype, "rfc822") || strings.EqualFold(p.Subtype, "global"))
}

func isDigest(p *Part) bool {
	return p.IsMultipart() && strings.EqualFold(p.Subtype, "digest")
}

// readEnvelopeField reads a field of a message. Of fields that stand twice
// the last counts, but the addresses of all.
func (x *Indexer) readEnvelopeField(e *Envelope, f headerField) {
	switch f.name {
	case "date":
		e.Date, e.Has = fieldText(f.value), e.Has|HasDate
	case "subject":
		e.Subject, e.Has = collapse(f.value), e.Has|HasSubject
	case "in-reply-to":
		e.InReplyTo, e.Has = fieldText(f.value), e.Has|HasInReplyTo
	case "message-id":
		e.MessageID, e.Has = fieldText(f.value), e.Has|HasMessageID
	case "references":
		x.ix.References = lastReferences(f.value)
	case "from":
		x.setAddresses(&e.From, f.value)
	case "sender":
		x.setAddresses(&e.Sender, f.value)
	case "reply-to":
		x.setAddresses(&e.ReplyTo, f.value)
	case "to":
		x.setAddresses(&e.To, f.value)
	case "cc":
		x.setAddresses(&e.Cc, f.value)
	case "bcc":
		x.setAddresses(&e.Bcc, f.value)
	}
}

func (x *Indexer) setAddresses(to *[]Address, value []byte) {
	list, full := envelopeAddresses(value, x.addressLeft)
	*to = append(*to, list...)
	x.addressLeft -= len(list)
	x.ix.Truncated = x.ix.Truncated || full
}

func lastReferences(value []byte) []string {
	ids := MessageIDs(value)
	return ids[max(0, len(ids)-maxReferences):]
}

// fieldText unfolds the value of a field: line ends go, the white space behind
// them stays (RFC 5322 §2.2.3). Lone CRs that no white space follows become a
// space.
func fieldText(value []byte) string {
	value = bytes.TrimLeft(value, " \t")
	if !bytes.ContainsAny(value, "\r\n") {
		return cleanText(value)
	}
	out := make([]byte, 0, len(value))
	atBreak := false
	for _, c := range value {
		if c == '\r' || c == '\n' {
			atBreak = true
			continue
		}
		if atBreak && c != ' ' && c != '\t' {
			out = append(out, ' ')
		}
		atBreak = false
		out = append(out, c)
	}
	return cleanText(out)
}

// collapse unfolds text that people read: white space becomes single spaces
// and goes at both ends.
func collapse(value []byte) string {
	out := make([]byte, 0, len(value))
	for _, c := range value {
		if !isSpace(c) {
			out = append(out, c)
		} else if len(out) > 0 && out[len(out)-1] != ' ' {
			out = append(out, ' ')
		}
	}
	return cleanText(bytes.TrimRight(out, " "))
}
