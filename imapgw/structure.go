package imapgw

import (
	"strings"

	"github.com/emersion/go-imap/v2"

	"holdfast/message"
)

// envelope puts an envelope into the library's form, which it writes thus: the
// date in RFC 5322 form (or NIL if it cannot be read), strings as they are if
// they are ASCII, else as encoded words, ids in angle brackets.
func envelope(e *message.Envelope) *imap.Envelope {
	out := &imap.Envelope{
		Subject: headerText(e.Subject),
		From:    addresses(e.From), Sender: addresses(e.Sender), ReplyTo: addresses(e.ReplyTo),
		To: addresses(e.To), Cc: addresses(e.Cc), Bcc: addresses(e.Bcc),
		MessageID: unbracket(e.MessageID),
	}
	if t, ok := message.ParseDate(e.Date); ok {
		out.Date = t
	}
	if ids := unbracket(e.InReplyTo); ids != "" {
		out.InReplyTo = []string{ids}
	}
	return out
}

// headerText returns the text of a field so that it arrives: ASCII, with its
// encoded words, stays as it is. Anything else is decoded first, because the
// library is going to encode all of it.
func headerText(s string) string {
	for i := range len(s) {
		if s[i] > '~' || s[i] < ' ' {
			return message.DecodeHeader([]byte(s))
		}
	}
	return s
}

// unbracket takes off the outermost angle brackets, which the library puts on.
func unbracket(id string) string {
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(id), "<"), ">")
}

// addresses is nil when there are none: the library then shows From in the place
// of Sender and Reply-To (RFC 9051 §7.5.2).
func addresses(list []message.Address) []imap.Address {
	var out []imap.Address
	for _, a := range list {
		out = append(out, imap.Address{Name: headerText(a.Name), Mailbox: a.Mailbox, Host: a.Host})
	}
	return out
}

// bodyStructure puts the structure of a part into the library's form. Its depth
// is bounded by message.MaxDepth.
func bodyStructure(p *message.Part) imap.BodyStructure {
	if p.IsMultipart() {
		out := &imap.BodyStructureMultiPart{
			Subtype: p.Subtype,
			Extended: &imap.BodyStructureMultiPartExt{
				Params: params(p.Params), Disposition: disposition(p),
				Language: p.Language, Location: p.Location,
			},
		}
		children := p.StructureChildren()
		for i := range children {
			out.Children = append(out.Children, bodyStructure(&children[i]))
		}
		return out
	}
	out := &imap.BodyStructureSinglePart{
		Type: p.Type, Subtype: p.Subtype, Params: params(p.Params),
		ID: p.ID, Description: p.Description, Encoding: p.Encoding, Size: uint32(p.BodyLen),
		Extended: &imap.BodyStructureSinglePartExt{
			Disposition: disposition(p), Language: p.Language, Location: p.Location,
		},
	}
	switch {
	case p.Message != nil:
		out.MessageRFC822 = &imap.BodyStructureMessageRFC822{
			Envelope:      envelope(&p.Message.Envelope),
			BodyStructure: bodyStructure(&p.Message.Root),
			NumLines:      p.Lines,
		}
	case strings.EqualFold(p.Type, "text"):
		out.Text = &imap.BodyStructureText{NumLines: p.Lines}
	}
	return out
}

func params(list []message.Param) map[string]string {
	if len(list) == 0 {
		return nil
	}
	out := make(map[string]string, len(list))
	for _, p := range list {
		if _, again := out[p.Name]; !again {
			out[p.Name] = p.Value
		}
	}
	return out
}

func disposition(p *message.Part) *imap.BodyStructureDisposition {
	if p.Disposition == "" {
		return nil
	}
	return &imap.BodyStructureDisposition{Value: p.Disposition, Params: params(p.DispositionParams)}
}
