package message

import "strings"

// Limits of what an [Indexer] reads. A message beyond one of them keeps all
// its bytes; only the reading is coarser, and [Index.Truncated] says so.
const (
	// MaxHeaderBytes bounds the text of all the header fields the index is
	// made from, over all parts of a message.
	MaxHeaderBytes = 1 << 20
	// MaxParts bounds the parts of a message. What follows the last one is
	// one more part, of type application/octet-stream.
	MaxParts = 1000
	// MaxDepth bounds how deep parts are nested. A container at that depth is
	// not opened and appears as application/octet-stream. Each level nests two
	// levels deep in an encoded [Index], which stays below MaxNesting.
	MaxDepth = 25
	// MaxNesting is how deep maps and arrays in an encoded [Index] can be
	// nested, so that decoders can be told to allow it.
	MaxNesting = 2*MaxDepth + 4
	// MaxAddresses bounds the addresses of all envelopes of a message.
	MaxAddresses = 10000
	// maxParams bounds the parameters of one header field.
	maxParams = 128
	// maxReferences bounds [Index.References]; of a longer chain the last are
	// kept, because those are the nearest ancestors.
	maxReferences = 100
)

// Index is the reading of one message. It is stored with the message, so keys
// of its encoding never change their meaning. All strings are valid UTF-8:
// bytes that were not are read as windows-1252. NULs are replaced by U+FFFD.
type Index struct {
	// Size is the length of the message in bytes.
	Size int64 `cbor:"1,keyasint,omitempty"`
	// Root is the message itself; its Offset is 0.
	Root Part `cbor:"2,keyasint"`
	// Envelope is the IMAP ENVELOPE of the message.
	Envelope Envelope `cbor:"3,keyasint"`
	// References holds the message ids of the References field, normalised as
	// by [NormaliseMessageID], oldest first.
	References []string `cbor:"4,keyasint,omitempty"`
	// Hops is the number of Received fields (RFC 5321 §6.3).
	Hops int `cbor:"5,keyasint,omitempty"`
	// HasBareCR and HasBareLF tell of line ends that are not CRLF.
	HasBareCR bool `cbor:"6,keyasint,omitempty"`
	HasBareLF bool `cbor:"7,keyasint,omitempty"`
	// Is8bit is set if any byte is above 127; HasNUL if any is 0.
	Is8bit bool `cbor:"8,keyasint,omitempty"`
	HasNUL bool `cbor:"9,keyasint,omitempty"`
	// Truncated is set if a limit made the reading coarser.
	Truncated bool `cbor:"10,keyasint,omitempty"`
	// Lines is the number of LFs in the message.
	Lines int64 `cbor:"11,keyasint,omitempty"`
	// LongestLine is the length in bytes of the longest line without its end.
	LongestLine int64 `cbor:"12,keyasint,omitempty"`
}

// Part is one part of a message, or the message itself: a header, then a body.
// Its fields are as IMAP's BODYSTRUCTURE states them, defaults filled in.
type Part struct {
	// Offset is where the header begins, counted from the start of the message.
	Offset int64 `cbor:"1,keyasint,omitempty"`
	// HeaderLen is the length of the header with the blank line that ends it,
	// if there is one. The body begins at Offset+HeaderLen.
	HeaderLen int64 `cbor:"2,keyasint,omitempty"`
	// BodyLen is the length of the body, still in its transfer encoding.
	BodyLen int64 `cbor:"3,keyasint,omitempty"`
	// Lines is the number of LFs in the body.
	Lines int64 `cbor:"4,keyasint,omitempty"`

	// Type and Subtype are the media type in the sender's spelling of case.
	Type    string `cbor:"5,keyasint,omitempty"`
	Subtype string `cbor:"6,keyasint,omitempty"`
	// Params are the parameters of Content-Type. Values continued or encoded
	// by RFC 2231 are joined but not decoded, under a name that ends in "*".
	Params      []Param `cbor:"7,keyasint,omitempty"`
	ID          string  `cbor:"8,keyasint,omitempty"`
	Description string  `cbor:"9,keyasint,omitempty"`
	// Encoding is the transfer encoding, "7bit" if none is stated.
	Encoding          string   `cbor:"10,keyasint,omitempty"`
	MD5               string   `cbor:"11,keyasint,omitempty"`
	Disposition       string   `cbor:"12,keyasint,omitempty"`
	DispositionParams []Param  `cbor:"13,keyasint,omitempty"`
	Language          []string `cbor:"14,keyasint,omitempty"`
	Location          string   `cbor:"15,keyasint,omitempty"`

	// Children are the parts of a multipart. A multipart without any is
	// possible; [Part.StructureChildren] says what IMAP shows then.
	Children []Part `cbor:"16,keyasint,omitempty"`
	// Message is what a message/rfc822 or message/global part holds.
	Message *Embedded `cbor:"17,keyasint,omitempty"`
}

// Embedded is a message inside a part. Its Root's offsets, too, count from the
// start of the outermost message.
type Embedded struct {
	Envelope Envelope `cbor:"1,keyasint"`
	Root     Part     `cbor:"2,keyasint"`
}

// Param is one parameter of a header field.
type Param struct {
	Name  string `cbor:"1,keyasint,omitempty"`
	Value string `cbor:"2,keyasint,omitempty"`
}

// Envelope holds the fields of an IMAP ENVELOPE as the message has them,
// unfolded but with encoded words still encoded. Where Sender or ReplyTo is
// empty, IMAP shows From (RFC 9051 §7.5.2).
type Envelope struct {
	Date      string    `cbor:"1,keyasint,omitempty"`
	Subject   string    `cbor:"2,keyasint,omitempty"`
	From      []Address `cbor:"3,keyasint,omitempty"`
	Sender    []Address `cbor:"4,keyasint,omitempty"`
	ReplyTo   []Address `cbor:"5,keyasint,omitempty"`
	To        []Address `cbor:"6,keyasint,omitempty"`
	Cc        []Address `cbor:"7,keyasint,omitempty"`
	Bcc       []Address `cbor:"8,keyasint,omitempty"`
	InReplyTo string    `cbor:"9,keyasint,omitempty"`
	MessageID string    `cbor:"10,keyasint,omitempty"`
	// Has tells which of the four strings had a field, since IMAP answers NIL
	// for a field that is absent and "" for one that is empty.
	Has EnvelopeFields `cbor:"11,keyasint,omitempty"`
}

// EnvelopeFields is a set of envelope fields.
type EnvelopeFields uint8

// The members of [EnvelopeFields].
const (
	HasDate EnvelopeFields = 1 << iota
	HasSubject
	HasInReplyTo
	HasMessageID
)

// Body returns where the body of p lies.
func (p *Part) Body() (off, n int64) { return p.Offset + p.HeaderLen, p.BodyLen }

// MediaType returns the media type in lower case, such as "text/plain".
func (p *Part) MediaType() string {
	return strings.ToLower(p.Type + "/" + p.Subtype)
}

// IsMultipart reports whether p is a container of parts.
func (p *Part) IsMultipart() bool { return strings.EqualFold(p.Type, "multipart") }

// StructureChildren returns the children as BODYSTRUCTURE must show them: a
// multipart has at least one there, so an empty one shows a part of no bytes.
func (p *Part) StructureChildren() []Part {
	if len(p.Children) > 0 || !p.IsMultipart() {
		return p.Children
	}
	off, n := p.Body()
	return []Part{{
		Offset: off + n, Type: "text", Subtype: "plain", Encoding: "7bit",
		Params: []Param{{Name: "charset", Value: "us-ascii"}},
	}}
}

// Param returns the value of the Content-Type parameter name, decoded if it
// is encoded by RFC 2231 or, against the standard, by encoded words.
func (p *Part) Param(name string) string { return paramValue(p.Params, name) }

// Filename returns the name a sender gave the part, decoded, or "". It may
// contain anything: never use it as a path.
func (p *Part) Filename() string {
	if name := paramValue(p.DispositionParams, "filename"); name != "" {
		return name
	}
	return paramValue(p.Params, "name")
}

// Walk calls visit for every part, each before those below it, with its IMAP
// part path. The path is reused: copy it to keep it. The message itself is
// visited with an empty path if it is a multipart, else its body is part 1. A
// multipart that is the whole of a message in a part has no path of its own
// and is not visited, only its parts are. Walk stops when visit returns false.
func (ix *Index) Walk(visit func(path []int, p *Part) bool) {
	root := &ix.Root
	if root.IsMultipart() {
		walkPart(nil, root, visit)
	} else {
		walkPart([]int{1}, root, visit)
	}
}

func walkPart(path []int, p *Part, visit func([]int, *Part) bool) bool {
	if !visit(path, p) {
		return false
	}
	if p.Message != nil {
		root := &p.Message.Root
		if !root.IsMultipart() {
			return walkPart(append(path, 1), root, visit)
		}
		p = root
	}
	for i := range p.Children {
		if !walkPart(append(path, i+1), &p.Children[i], visit) {
			return false
		}
	}
	return true
}
