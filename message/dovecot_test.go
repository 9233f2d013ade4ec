package message

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// TestDovecot compares the reading of every message of the corpora, of hand
// written broken ones and of random ones with what Dovecot 2.3 answers to
// FETCH: ENVELOPE, BODYSTRUCTURE, and the bytes of every section.
//
// Deviations, all of them undone before the comparison:
//
//   - Dovecot turns every LF into CRLF and counts octets of that; here the
//     bytes are as they were received (withCRLF).
//   - Text that is not UTF-8 is passed on by Dovecot as it is, against RFC 9051
//     §4.3; here it is read as windows-1252, because strings have to be valid
//     UTF-8 to be stored and sent (cleanText).
//   - A Content-Type that Dovecot cannot read makes it answer "" for type and
//     subtype (or only for the subtype of a lone type), and a disposition it
//     cannot read "". No client can do anything with those; here what can be
//     read of them stands, or the default of RFC 2045 §5.2 and RFC 2183 §2.8
//     (asDovecot). What is a container and what is not is the same.
//   - Fields that are empty (Content-ID, Content-Description, Content-MD5,
//     Content-Location) are "" for Dovecot and absent here.
//   - A group without a name has the name "" for Dovecot. Many IMAP libraries,
//     ours among them, write that as NIL, which marks the end of a group; here
//     its name is MISSING_MAILBOX.
//   - Names and mailboxes that are quoted and empty are "" for Dovecot and NIL
//     here, and so is a field of white space only " " and "".
//   - BODY[1.1], where part 1 is neither a multipart nor a message, is part 1
//     for Dovecot; here it does not exist. It is not asked for.
//   - Dovecot treats message/global as a leaf; here it is opened like
//     message/rfc822, as RFC 9051 §7.5.2 asks. No message of this test has one;
//     TestGlobal shows it.
func TestDovecot(t *testing.T) {
	var names []string
	var messages [][]byte
	for _, m := range corpus(t) {
		names, messages = append(names, m.name), append(messages, m.bytes)
	}
	for i, m := range brokenMessages {
		names, messages = append(names, fmt.Sprintf("broken %d", i)), append(messages, []byte(m))
	}
	for i := range 400 {
		names, messages = append(names, fmt.Sprintf("random %d", i)), append(messages, randomMessage(uint64(i)))
	}
	for i := range 400 {
		names, messages = append(names, fmt.Sprintf("random header %d", i)), append(messages, randomHeader(uint64(i)))
	}
	compareWithDovecot(t, names, messages)
}

func compareWithDovecot(t *testing.T, names []string, messages [][]byte) {
	t.Helper()
	d := startDovecot(t, messages)
	fetched := d.command("FETCH 1:* (RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY.PEEK[])")
	for i, message := range messages {
		got, ix := fetched[i+1], ReadIndex(message)
		if body, _ := got["BODY[]"].(string); body != withCRLF(message) {
			t.Errorf("%s: Dovecot has another message", names[i])
			continue
		}
		o := ours{message: message}
		same := true
		check := func(what, dovecot, our string) {
			t.Helper()
			if dovecot != our {
				same = false
				t.Errorf("%s: %s\ndovecot %s\nours    %s\nmessage %.1500q", names[i], what, dovecot, our, message)
			}
		}
		check("ENVELOPE", show(got["ENVELOPE"]), show(o.envelope(&ix.Envelope)))
		check("BODYSTRUCTURE", show(got["BODYSTRUCTURE"]), show(o.structure(&ix.Root)))
		if same { // else the sections differ, too
			compareSections(t, d, i, names[i], message, ix)
		}
	}
}

// compareSections compares the bytes of all sections of a message.
func compareSections(t *testing.T, d *dovecot, i int, name string, message []byte, ix *Index) {
	t.Helper()
	type section struct {
		path []int
		spec Specifier
	}
	wanted := make(map[string]section)
	ask := func(path []int, spec Specifier) {
		var b strings.Builder
		for _, n := range path {
			b.WriteString(strconv.Itoa(n) + ".")
		}
		b.WriteString(map[Specifier]string{Whole: "", Header: "HEADER", Text: "TEXT", MIME: "MIME"}[spec])
		key := "BODY[" + strings.TrimSuffix(b.String(), ".") + "]"
		wanted[key] = section{append([]int(nil), path...), spec}
	}
	ask(nil, Header)
	ask(nil, Text)
	ask([]int{99}, Whole)
	const maxSections = 60
	ix.Walk(func(path []int, p *Part) bool {
		if len(path) == 0 {
			return true
		}
		ask(path, Whole)
		ask(path, MIME)
		if p.Message != nil {
			ask(path, Header)
			ask(path, Text)
		}
		if p.Message != nil || p.IsMultipart() {
			ask(append(path[:len(path):len(path)], 1), Whole)
		}
		return len(wanted) < maxSections
	})
	var keys []string
	for key := range wanted {
		keys = append(keys, strings.Replace(key, "BODY[", "BODY.PEEK[", 1))
	}
	got := d.command(fmt.Sprintf("FETCH %d (%s)", i+1, strings.Join(keys, " ")))[i+1]
	for key, s := range wanted {
		our := any(nil)
		if off, n, ok := ix.Section(s.path, s.spec); ok {
			our = withCRLF(message[off : off+n])
		}
		theirs := got[key]
		if theirs == "" && our == nil {
			theirs = nil
		}
		if theirs != our {
			a, b := fmt.Sprint(theirs), fmt.Sprint(our)
			same := 0
			for same < min(len(a), len(b)) && a[same] == b[same] {
				same++
			}
			t.Errorf("%s: %s\ndovecot …%.100q (%d)\nours    …%.100q (%d)\nmessage %.1500q",
				name, key, a[same:], len(a), b[same:], len(b), message)
		}
	}
}

// withCRLF returns b as Dovecot sends it.
func withCRLF(b []byte) string {
	var out bytes.Buffer
	for i, c := range b {
		if c == '\n' && (i == 0 || b[i-1] != '\r') {
			out.WriteByte('\r')
		}
		if c == 0 {
			c = 0x80
		}
		out.WriteByte(c)
	}
	return out.String()
}

// show prints an IMAP value, its text cleaned the way the index's is.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "NIL"
	case atom:
		return string(v)
	case string:
		return strconv.Quote(cleanText([]byte(v)))
	}
	var words []string
	for _, item := range v.([]any) {
		words = append(words, show(item))
	}
	return "(" + strings.Join(words, " ") + ")"
}

// ours makes IMAP values from an index.
type ours struct{ message []byte }

func (o ours) envelope(e *Envelope) any {
	text := func(s string, has EnvelopeFields) any {
		if e.Has&has == 0 {
			return nil
		}
		return s
	}
	sender, replyTo := e.Sender, e.ReplyTo
	if sender == nil {
		sender = e.From
	}
	if replyTo == nil {
		replyTo = e.From
	}
	return []any{
		text(e.Date, HasDate), text(e.Subject, HasSubject),
		o.addresses(e.From), o.addresses(sender), o.addresses(replyTo),
		o.addresses(e.To), o.addresses(e.Cc), o.addresses(e.Bcc),
		text(e.InReplyTo, HasInReplyTo), text(e.MessageID, HasMessageID),
	}
}

func nstring(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (o ours) addresses(list []Address) any {
	if len(list) == 0 {
		return nil
	}
	var out []any
	for _, a := range list {
		mailbox := nstring(a.Mailbox)
		if a.IsGroupStart() && a.Mailbox == MissingMailbox {
			mailbox = ""
		}
		out = append(out, []any{nstring(a.Name), nstring(a.Route), mailbox, nstring(a.Host)})
	}
	return out
}

func (o ours) params(params []Param) any {
	if len(params) == 0 {
		return nil
	}
	var out []any
	for _, p := range params {
		out = append(out, p.Name, p.Value)
	}
	return out
}

// brokenDisposition returns the parameters of the disposition that Dovecot
// shows for p if that is one without a name.
func (o ours) brokenDisposition(p *Part) (params any, ok bool) {
	for name, value := range HeaderFields(o.message[p.Offset : p.Offset+p.HeaderLen]) {
		if value == nil || !strings.EqualFold(name, "Content-Disposition") {
			continue
		}
		d, list, readable := disposition(value)
		if readable {
			params, ok = o.params(cleanParams(list)), d == ""
		}
		if list != nil {
			break
		}
	}
	return params, ok
}

// asDovecot returns the type of p, or what Dovecot makes of it if it is broken.
func (o ours) asDovecot(p *Part) (typ, subtype string, params any) {
	header := o.message[p.Offset : p.Offset+p.HeaderLen]
	for name, value := range HeaderFields(header) {
		if value == nil || !strings.EqualFold(name, "Content-Type") {
			continue
		}
		typ, _, _, ok := contentType(value)
		l := lexer{b: bytes.TrimRight(value, "\r\n")}
		l.skipSpace()
		token, st := l.token(nil)
		alone := st != more && len(token) > 0
		switch {
		case ok:
		case alone && strings.EqualFold(typ, "text"):
			return typ, "", o.params([]Param{{"charset", "us-ascii"}})
		case alone && typ != "multipart":
			return typ, "", nil
		case alone:
		default:
			return "", "", nil
		}
		break
	}
	return p.Type, p.Subtype, o.params(p.Params)
}

func (o ours) structure(p *Part) any {
	var extended []any
	disposition := any(nil)
	if p.Disposition != "" {
		disposition = []any{p.Disposition, o.params(p.DispositionParams)}
	}
	if broken, ok := o.brokenDisposition(p); ok {
		disposition = []any{"", broken}
	}
	language := any(nil)
	if len(p.Language) > 0 {
		var list []any
		for _, l := range p.Language {
			list = append(list, l)
		}
		language = list
	}
	extended = append(extended, disposition, language, nstring(p.Location))
	if p.IsMultipart() {
		var out []any
		children := p.StructureChildren()
		for i := range children {
			out = append(out, o.structure(&children[i]))
		}
		return append(append(out, p.Subtype, o.params(p.Params)), extended...)
	}
	off, n := p.Body()
	size := len(withCRLF(o.message[off : off+n]))
	if off > 0 && n > 0 && o.message[off] == '\n' && o.message[off-1] == '\r' {
		size-- // the CR is in front of the body
	}
	typ, subtype, params := o.asDovecot(p)
	out := []any{
		typ, subtype, params, nstring(p.ID), nstring(p.Description), p.Encoding,
		atom(strconv.Itoa(size)),
	}
	lines := atom(strconv.FormatInt(p.Lines, 10))
	switch {
	case p.Message != nil:
		out = append(out, o.envelope(&p.Message.Envelope), o.structure(&p.Message.Root), lines)
	case strings.EqualFold(typ, "text"):
		out = append(out, lines)
	}
	return append(append(out, nstring(p.MD5)), extended...)
}
