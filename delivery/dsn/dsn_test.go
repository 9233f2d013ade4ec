package dsn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

var when = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func params() Params {
	return Params{
		ReportingMTA: "mx.holdfast.test", MessageID: "0123.dsn@mx.holdfast.test", Date: when, Arrival: when.Add(-time.Hour),
		ReversePath: "<sender@example.org>",
		Recipients: []Recipient{{
			Address: "alice@acme.test", Status: "5.1.1", Code: 550, Text: []string{"no such user", "really"},
			RemoteMTA: "primary.acme.test", LastAttempt: when.Add(-time.Minute), ORcpt: "rfc822;sales+2Bx@acme.test",
		}},
		Header: []byte("From: sender@example.org\r\nSubject: hello\r\n\r\nbody\r\n"),
	}
}

// report is a notification taken apart by the standard library.
type report struct {
	header     mail.Header
	kind       string
	types      []string
	bodies     [][]byte
	perMessage textproto.MIMEHeader
	perRcpt    []textproto.MIMEHeader
}

func parse(t *testing.T, msg []byte) report {
	t.Helper()
	for i, line := range bytes.Split(msg, []byte("\r\n")) {
		if len(line) > 998 || bytes.ContainsAny(line, "\r\n\x00") {
			t.Fatalf("line %d is not fit for SMTP: %d octets", i, len(line))
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(msg))
	if err != nil {
		t.Fatal(err)
	}
	media, par, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || media != "multipart/report" {
		t.Fatalf("media type %q: %v", media, err)
	}
	r := report{header: m.Header, kind: par["report-type"]}
	mr := multipart.NewReader(m.Body, par["boundary"])
	for {
		pt, err := mr.NextPart() // decodes quoted-printable
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(pt)
		if err != nil {
			t.Fatal(err)
		}
		media, _, err := mime.ParseMediaType(pt.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		r.types, r.bodies = append(r.types, media), append(r.bodies, body)
	}
	if len(r.bodies) != 3 {
		t.Fatalf("%d parts, want 3", len(r.bodies))
	}
	fields := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(r.bodies[1:2:2][0], "\r\n"...))))
	for {
		h, err := fields.ReadMIMEHeader()
		if len(h) > 0 && r.perMessage == nil {
			r.perMessage = h
		} else if len(h) > 0 {
			r.perRcpt = append(r.perRcpt, h)
		}
		if err != nil {
			return r
		}
	}
}

func bounce(t *testing.T, p Params) report {
	t.Helper()
	from, to, msg, err := Bounce(p)
	if err != nil {
		t.Fatal(err)
	}
	if from != "" || to != trimPath(p.ReversePath) {
		t.Errorf("envelope from %q to %q", from, to)
	}
	_, _, again, _ := Bounce(p)
	if !bytes.Equal(msg, again) {
		t.Error("not deterministic")
	}
	if eight := !isASCIIBytes(msg); eight && !bytes.Contains(msg, []byte("Content-Transfer-Encoding: 8bit")) {
		t.Error("octets above 127 without 8bit")
	}
	return parse(t, msg)
}

func TestBounce(t *testing.T) {
	p := params()
	p.EnvID = "QQ+2B314"
	r := bounce(t, p)
	for k, want := range map[string]string{
		"Auto-Submitted": "auto-replied", "Mime-Version": "1.0", "Message-Id": "<0123.dsn@mx.holdfast.test>", "To": "<sender@example.org>",
	} {
		if got := r.header.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	if d, err := r.header.Date(); err != nil || !d.Equal(when) {
		t.Errorf("Date %v, %v", d, err)
	}
	if _, err := r.header.AddressList("From"); err != nil {
		t.Error(err)
	}
	if r.kind != "delivery-status" || strings.Join(r.types, " ") != "text/plain message/delivery-status text/rfc822-headers" {
		t.Errorf("report type %q, parts %v", r.kind, r.types)
	}
	if got := r.perMessage; got.Get("Reporting-MTA") != "dns; mx.holdfast.test" || got.Get("Original-Envelope-Id") != "QQ+314" || got.Get("Arrival-Date") == "" {
		t.Errorf("per message %v", got)
	}
	for k, want := range map[string]string{
		"Original-Recipient": "rfc822; sales+x@acme.test", "Final-Recipient": "rfc822; alice@acme.test", "Action": "failed", "Status": "5.1.1",
		"Remote-Mta": "dns; primary.acme.test", "Diagnostic-Code": "smtp; 550 5.1.1 no such user 550 5.1.1 really", "Last-Attempt-Date": "Wed, 04 Mar 2026 05:05:07 +0000",
	} {
		if got := r.perRcpt[0].Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	if got := string(r.bodies[2]); got != "From: sender@example.org\r\nSubject: hello\r\n" {
		t.Errorf("returned header %q", got)
	}
	if text := string(r.bodies[0]); !strings.Contains(text, "<alice@acme.test>") || !strings.Contains(text, "550 5.1.1 no such user") {
		t.Errorf("text %q", text)
	}
}

func TestNobodyIsTold(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Params)
		want   error
	}{
		"null sender":           {func(p *Params) { p.ReversePath = "" }, ErrNullSender},
		"null sender, brackets": {func(p *Params) { p.ReversePath = "<>" }, ErrNullSender},
		"NEVER":                 {func(p *Params) { p.Recipients[0].Notify = "NEVER" }, ErrNotWanted},
		"SUCCESS only":          {func(p *Params) { p.Recipients[0].Notify = "SUCCESS,DELAY" }, ErrNotWanted},
		"no recipients":         {func(p *Params) { p.Recipients = nil }, ErrParams},
		"no host":               {func(p *Params) { p.ReportingMTA = "" }, ErrParams},
		"host with CRLF":        {func(p *Params) { p.ReportingMTA = "a\r\nX: y" }, ErrParams},
		"no date":               {func(p *Params) { p.Date = time.Time{} }, ErrParams},
		"sender with CRLF":      {func(p *Params) { p.ReversePath = "a@b\r\nBcc: c@d" }, ErrParams},
		"two senders":           {func(p *Params) { p.ReversePath = "a@b>,<c@d" }, ErrParams},
		"sender needs SMTPUTF8": {func(p *Params) { p.ReversePath = "jörg@example.org" }, ErrParams},
	} {
		t.Run(name, func(t *testing.T) {
			p := params()
			tc.change(&p)
			if _, to, msg, err := Bounce(p); !errors.Is(err, tc.want) || to != "" || msg != nil {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestOnlyThoseWhoWantIt(t *testing.T) {
	p := params()
	p.Recipients = append(p.Recipients, Recipient{Address: "quiet@acme.test", Notify: "NEVER"}, Recipient{Address: "bob@acme.test", Notify: "success,failure", Expired: true})
	r := bounce(t, p)
	if len(r.perRcpt) != 2 || r.perRcpt[1].Get("Final-Recipient") != "rfc822; bob@acme.test" || r.perRcpt[1].Get("Status") != "4.4.7" {
		t.Errorf("recipients %v", r.perRcpt)
	}
	if bytes.Contains(r.bodies[0], []byte("quiet")) {
		t.Error("a recipient with NOTIFY=NEVER is named")
	}
}

func TestStatus(t *testing.T) {
	for _, tc := range []struct {
		r    Recipient
		want string
	}{
		{Recipient{Status: "5.7.1", Code: 550}, "5.7.1"},
		{Recipient{Code: 550}, "5.0.0"},
		{Recipient{}, "5.4.0"},
		{Recipient{Expired: true}, "4.4.7"},
		{Recipient{Status: "4.2.2", Code: 452, Expired: true}, "4.2.2"},
		{Recipient{Status: "4.2.2", Code: 550}, "5.0.0"},
		{Recipient{Status: "5.1.1\r\nX: y", Code: 550}, "5.0.0"},
		{Recipient{Status: "5.01.1", Code: 550}, "5.0.0"},
	} {
		if got := tc.r.status(); got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.r, got, tc.want)
		}
	}
}

func TestReturnedMessage(t *testing.T) {
	long := "X: " + strings.Repeat("x", 2000) + "\r\n"
	for _, tc := range []struct {
		name, header, full, ret string
		media, want             string
	}{
		{"full", "A: b\r\n", "A: b\r\n\r\nbody", "FULL", "message/rfc822", "A: b\r\n\r\nbody"},
		{"full, lower case", "A: b\r\n", "A: b\r\n\r\nbody\r\n", "full", "message/rfc822", "A: b\r\n\r\nbody\r\n"},
		{"full, 8 bit", "A: b\r\n", "A: b\r\n\r\n\xc3\xa9\r\n", "FULL", "message/rfc822", "A: b\r\n\r\n\xc3\xa9\r\n"},
		{"full, bare LF", "A: b\r\n", "A: b\n\nbody\n", "FULL", "text/rfc822-headers", "A: b\r\n"},
		{"full, NUL", "A: b\r\n", "A: b\r\n\r\n\x00\r\n", "FULL", "text/rfc822-headers", "A: b\r\n"},
		{"full, long line", "A: b\r\n", "A: b\r\n\r\n" + long, "FULL", "text/rfc822-headers", "A: b\r\n"},
		{"full, too large", "A: b\r\n", "A: b\r\n\r\n" + strings.Repeat("x\r\n", MaxFull/3), "FULL", "text/rfc822-headers", "A: b\r\n"},
		{"headers", "A: b\r\n", "A: b\r\n\r\nbody\r\n", "HDRS", "text/rfc822-headers", "A: b\r\n"},
		{"headers, no end", "A: b", "", "", "text/rfc822-headers", "A: b\r\n"},
		{"headers, with body", "A: b\n\nsecret", "", "", "text/rfc822-headers", "A: b\r\n"},
		{"headers, 8 bit", "A: \xe9\xff\r\n", "", "", "text/rfc822-headers", "A: \xe9\xff\r\n"},
		{"headers, long line", long, "", "", "text/rfc822-headers", long},
		{"headers, bare CR", "A: b\rc\r\n", "", "", "text/rfc822-headers", "A: b\rc\r\n"},
		{"no header", "", "", "", "text/rfc822-headers", "\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := params()
			p.Header, p.Full, p.Ret = []byte(tc.header), []byte(tc.full), tc.ret
			r := bounce(t, p)
			if r.types[2] != tc.media || string(r.bodies[2]) != tc.want {
				t.Errorf("%s %.100q, want %s %.100q", r.types[2], r.bodies[2], tc.media, tc.want)
			}
		})
	}
}

func TestInternational(t *testing.T) {
	p := params()
	p.Recipients[0].Address = "jörg@acme.test"
	p.Recipients[0].Text = []string{"kein Jörg"}
	r := bounce(t, p)
	if got := r.perRcpt[0].Get("Final-Recipient"); got != `utf-8; j\x{F6}rg@acme.test` {
		t.Errorf("Final-Recipient %q", got)
	}
	if got := r.perRcpt[0].Get("Diagnostic-Code"); got != "smtp; 550 5.1.1 kein J?rg" {
		t.Errorf("Diagnostic-Code %q", got)
	}
	if !strings.Contains(string(r.bodies[0]), "jörg@acme.test") {
		t.Errorf("text %q", r.bodies[0])
	}

	p.SMTPUTF8, p.ReversePath = true, "søren@example.org"
	p.Header = []byte("Subject: grüße\r\n")
	p.Recipients[0].ORcpt = "utf-8;jörg@acme.test"
	r = bounce(t, p)
	if r.kind != "global-delivery-status" || strings.Join(r.types, " ") != "text/plain message/global-delivery-status message/global-headers" {
		t.Errorf("report type %q, parts %v", r.kind, r.types)
	}
	if rc := r.perRcpt[0]; rc.Get("Final-Recipient") != "utf-8; jörg@acme.test" || rc.Get("Original-Recipient") != "utf-8; jörg@acme.test" {
		t.Errorf("recipient %v", rc)
	}
	if string(r.bodies[2]) != "Subject: grüße\r\n" {
		t.Errorf("returned %q", r.bodies[2])
	}
	p.Ret, p.Full = "FULL", []byte("Subject: grüße\r\n\r\n.\r\n")
	if r = bounce(t, p); r.types[2] != "message/global" || !bytes.Equal(r.bodies[2], p.Full) {
		t.Errorf("returned %s %q", r.types[2], r.bodies[2])
	}
}

func TestHostileStringsStayInTheirFields(t *testing.T) {
	evil := "x\r\nX-Evil: yes\r\n\r\n--=_\x00\x1b[31m\xff\u0085"
	p := params()
	p.EnvID = "a+0D+0AX-Evil: yes"
	p.Recipients[0] = Recipient{
		Address: "<" + evil + ">", ORcpt: "rfc822;a+0D+0AX-Evil:+20yes", Code: 550, Status: evil, RemoteMTA: evil,
		Text: []string{evil, strings.Repeat("word ", 1000), strings.Repeat("y", 5000), strings.Repeat("ü", 3000)},
	}
	for i := range 200 {
		p.Recipients[0].Text = append(p.Recipients[0].Text, strings.Repeat("z", i))
	}
	for _, utf8 := range []bool{false, true} {
		p.SMTPUTF8 = utf8
		r := bounce(t, p)
		if len(r.perRcpt) != 1 || r.perRcpt[0].Get("X-Evil") != "" || r.perMessage.Get("X-Evil") != "" || r.header.Get("X-Evil") != "" {
			t.Errorf("a header was injected: %v %v", r.perMessage, r.perRcpt)
		}
		if r.perRcpt[0].Get("Original-Recipient") != "" || r.perMessage.Get("Original-Envelope-Id") != "" {
			t.Error("control characters are taken for a value")
		}
	}
}

func TestBoundaryStandsInNoPart(t *testing.T) {
	p := params()
	first := p.boundary(nil)
	p.Header = []byte("A: " + first + "\r\n")
	r := bounce(t, p)
	if string(r.bodies[2]) != "A: "+first+"\r\n" {
		t.Errorf("returned %q", r.bodies[2])
	}
}

func FuzzBounce(f *testing.F) {
	f.Add("alice@acme.test", "rfc822;a+40b", "QQ+2B", "550 no", "A: b\r\n", "A: b\r\n\r\nx", true)
	f.Add("jörg@x", "utf-8;ö", "+", strings.Repeat("x", 2000), "A: \xff\n", "", false)
	f.Fuzz(func(t *testing.T, addr, orcpt, envid, text, header, full string, utf8 bool) {
		p := params()
		p.SMTPUTF8, p.EnvID, p.Ret = utf8, envid, "FULL"
		p.Header, p.Full = []byte(header), []byte(full)
		p.Recipients[0].Address, p.Recipients[0].ORcpt, p.Recipients[0].Text = addr, orcpt, []string{text}
		r := bounce(t, p)
		if len(r.perRcpt) != 1 || len(r.perMessage) > 3 {
			t.Errorf("fields %v %v", r.perMessage, r.perRcpt)
		}
	})
}
