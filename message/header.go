package message

import (
	"bytes"
	"iter"
	"strings"
	"time"
)

// SplitHeader returns the header of a message, with the blank line that ends
// it, and what follows.
func SplitHeader(message []byte) (header, body []byte) {
	n := headerEnd(message)
	return message[:n], message[n:]
}

func headerEnd(b []byte) int {
	for i := 0; i < len(b); {
		line := nextLine(b[i:])
		i += len(line)
		if isBlank(line) {
			return i
		}
	}
	return len(b)
}

// nextLine returns the first line of b with its end.
func nextLine(b []byte) []byte {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i+1]
	}
	return b
}

func isBlank(line []byte) bool {
	return string(line) == "\n" || string(line) == "\r\n"
}

// HeaderFields yields the fields of a header in order: each name as it is
// written and each value as it lies there, folds and line end included. A line
// that has no colon is yielded as a name with a nil value. It stops at the
// blank line.
func HeaderFields(header []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for field := range rawFields(header) {
			name, value := splitField(field)
			if !yield(name, value) {
				return
			}
		}
	}
}

// rawFields yields the fields of a header as they lie there.
func rawFields(header []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(header) > 0 {
			n := len(nextLine(header))
			if isBlank(header[:n]) {
				return
			}
			for n < len(header) && (header[n] == ' ' || header[n] == '\t') {
				n += len(nextLine(header[n:]))
			}
			if !yield(header[:n:n]) {
				return
			}
			header = header[n:]
		}
	}
}

// splitField splits a raw field at its colon. The name ends before white
// space in front of the colon.
func splitField(field []byte) (name string, value []byte) {
	line := nextLine(field)
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return string(bytes.TrimRight(line, "\r\n")), nil
	}
	return string(bytes.TrimRight(field[:colon], " \t")), field[colon+1 : len(field) : len(field)]
}

// Field returns the value of the first field of that name, unfolded, and
// whether there is one.
func Field(header []byte, name string) (string, bool) {
	for n, value := range HeaderFields(header) {
		if value != nil && strings.EqualFold(n, name) {
			return Unfold(value), true
		}
	}
	return "", false
}

// FilterHeader returns the exact bytes of the fields of a header that have one
// of the given names, or with not set, of those that have none of them, and
// then a blank line: IMAP's HEADER.FIELDS and HEADER.FIELDS.NOT.
func FilterHeader(header []byte, fields []string, not bool) []byte {
	wanted := make(map[string]bool, len(fields))
	for _, name := range fields {
		wanted[strings.ToLower(name)] = true
	}
	var out []byte
	end := "\r\n"
	for field := range rawFields(header) {
		name, _ := splitField(field)
		if !bytes.HasSuffix(field, []byte("\r\n")) && bytes.HasSuffix(field, []byte("\n")) {
			end = "\n" // the blank line is like the lines before it
		}
		if wanted[strings.ToLower(name)] != not {
			out = append(out, field...)
		}
	}
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, end...)
	}
	return append(out, end...)
}

// Unfold returns the value of a field on one line, without white space at its
// ends. Bytes that are not UTF-8 are read as windows-1252.
func Unfold(value []byte) string {
	return strings.Trim(fieldText(value), " \t")
}

// HeaderFacts tells what a submitted message's header has.
type HeaderFacts struct {
	// Date, MessageID, From and Sender count the fields of that name. RFC 5322
	// §3.6 allows one of each.
	Date, MessageID, From, Sender int
	// FromAddresses and SenderAddresses hold what stands in all those fields;
	// see [Address.IsValid] for what of it is an address.
	FromAddresses, SenderAddresses []Address
	// Bcc counts the Bcc fields, which a submission server may remove.
	Bcc int
	// NoHeader is set if the message begins with something that is not a
	// header field: it has a body only. The "From " line that mailbox files
	// have in front of a message is let pass.
	NoHeader bool
}

// InspectHeader reads the header of a message to be sent.
func InspectHeader(header []byte) HeaderFacts {
	var f HeaderFacts
	first := true
	for name, value := range HeaderFields(header) {
		if first && (value == nil || !isFieldName(name)) && !strings.HasPrefix(name, "From ") {
			f.NoHeader = true
			return f
		}
		first = false
		if value == nil {
			continue
		}
		switch strings.ToLower(name) {
		case "date":
			f.Date++
		case "message-id":
			f.MessageID++
		case "from":
			f.From++
			f.FromAddresses = append(f.FromAddresses, ParseAddressList(value)...)
		case "sender":
			f.Sender++
			f.SenderAddresses = append(f.SenderAddresses, ParseAddressList(value)...)
		case "bcc":
			f.Bcc++
		}
	}
	return f
}

// isFieldName reports whether name has only the characters of a field name
// (RFC 5322 §3.6.8).
func isFieldName(name string) bool {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f || name[i] == ':' {
			return false
		}
	}
	return name != ""
}

// AddMissing returns the lines to put before a submitted message with the
// given header so that it has a Date and a Message-ID (RFC 6409 §8.2, §8.3),
// and a blank line if it has no header at all. It returns nil if nothing is
// missing. messageID is without angle brackets.
func AddMissing(header []byte, date time.Time, messageID string) []byte {
	f := InspectHeader(header)
	var out []byte
	if f.Date == 0 {
		out = append(out, "Date: "+FormatDate(date)+"\r\n"...)
	}
	if f.MessageID == 0 {
		out = append(out, "Message-ID: <"+messageID+">\r\n"...)
	}
	if f.NoHeader {
		out = append(out, "\r\n"...)
	}
	return out
}

// MessageIDs returns the message ids in the value of a field such as
// References or In-Reply-To, normalised. What stands in angle brackets
// counts; if there are none, each word with an "@" does.
func MessageIDs(value []byte) []string {
	var out []string
	text := fieldText(value)
	if strings.Contains(text, "<") {
		for _, piece := range strings.Split(text, "<")[1:] {
			id, _, closed := strings.Cut(piece, ">")
			if id = NormaliseMessageID(id); id != "" && closed {
				out = append(out, id)
			}
		}
		return out
	}
	for _, word := range strings.Fields(text) {
		if strings.Contains(word, "@") {
			out = append(out, NormaliseMessageID(word))
		}
	}
	return out
}

// NormaliseMessageID returns a message id without angle brackets and white
// space, so that ids can be compared. Case is kept: ids differ by it.
func NormaliseMessageID(id string) string {
	id = strings.TrimSpace(id)
	if i := strings.IndexByte(id, '<'); i >= 0 {
		id = id[i+1:]
		if j := strings.IndexByte(id, '>'); j >= 0 {
			id = id[:j]
		}
	}
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == '<' || r == '>' {
			return -1
		}
		return r
	}, id)
}
