package message

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestHeaderFields(t *testing.T) {
	var got []string
	for name, value := range HeaderFields([]byte("A: b\r\n c\r\nD : e\nno colon\r\n:f\r\n\r\nBody: x\r\n")) {
		got = append(got, name+"="+string(value))
	}
	want := []string{"A= b\r\n c\r\n", "D= e\n", "no colon=", "=f\r\n"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFilterHeader(t *testing.T) {
	const header = "From: a\r\nTO: b\r\n c\r\nX: d\r\nbroken\r\nTo : e\r\n\r\n"
	for _, tt := range []struct {
		header string
		fields []string
		not    bool
		want   string
	}{
		{header, []string{"to"}, false, "TO: b\r\n c\r\nTo : e\r\n\r\n"},
		{header, []string{"To", "FROM"}, true, "X: d\r\nbroken\r\n\r\n"},
		{header, []string{"none"}, false, "\r\n"},
		{header, nil, true, header},
		{"A: b\nC: d\n\n", []string{"c"}, false, "C: d\n\n"},
		{"A: b\r\nC: d", []string{"c"}, false, "C: d\r\n\r\n"},
		{"", []string{"c"}, false, "\r\n"},
	} {
		if got := FilterHeader([]byte(tt.header), tt.fields, tt.not); string(got) != tt.want {
			t.Errorf("FilterHeader(%q, %q, %t) = %q, want %q", tt.header, tt.fields, tt.not, got, tt.want)
		}
	}
}

func TestDecodeHeader(t *testing.T) {
	for raw, want := range map[string]string{
		"":                            "",
		" plain \r\n text\r\n":        "plain  text",
		"=?utf-8?q?gr=C3=BC=C3=9Fe?=": "grüße",
		"=?ISO-8859-1?Q?a?= b":        "a b",
		"=?ISO-8859-1?Q?a?=  \r\n =?ISO-8859-1?Q?b?=": "ab",
		"=?ISO-8859-1?Q?a_b?=":                        "a b",
		"=?UTF-8?B?w7w=?= =?UTF-8?B?w7w?=":            "üü",
		"=?UTF-8?Q?=C3?= =?UTF-8?Q?=BC?=":             "ü",
		"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=":          "日本",
		"=?gb2312?B?1tDOxA==?=":                       "中文",
		"=?ks_c_5601-1987?B?x9GxuQ==?=":               "한국",
		"=?windows-1252?Q?=80?=":                      "€",
		"=?x-nobody-knows?Q?=FC?=":                    "ü",
		"=?x-nobody-knows?Q?=C3=BC?=":                 "ü",
		"=?utf-8*de?Q?a?=":                            "a",
		"=?utf-8?X?a?=":                               "=?utf-8?X?a?=",
		"=?utf-8?Q?a":                                 "=?utf-8?Q?a",
		"=?utf-8?Q?a=?=":                              "a=",
		"=?utf-8?Q?=4?= =?":                           "=4 =?",
		"x=?utf-8?Q?y?=z":                             "xyz",
		"\xfcber":                                     "über",
		"schön":                                       "schön",
		"a\x00b":                                      "a\uFFFDb",
		"=?utf-8?Q?a=00b?=":                           "a\uFFFDb",
	} {
		if got := DecodeHeader([]byte(raw)); got != want {
			t.Errorf("DecodeHeader(%q) = %q, want %q", raw, got, want)
		}
	}
}

func TestParseAddressList(t *testing.T) {
	a := func(name, mailbox, host string) Address { return Address{Name: name, Mailbox: mailbox, Host: host} }
	for raw, want := range map[string][]Address{
		"":                         nil,
		"  ":                       nil,
		"a@b":                      {a("", "a", "b")},
		"A B <a@b>, c@d":           {a("A B", "a", "b"), a("", "c", "d")},
		`"B, A" <a@b>`:             {a("B, A", "a", "b")},
		"a@b (C D)":                {a("C D", "a", "b")},
		"g: a@b, c@d;, e@f":        {{Mailbox: "g"}, a("", "a", "b"), a("", "c", "d"), {}, a("", "e", "f")},
		"nobody:;":                 {{Mailbox: "nobody"}, {}},
		"a@b; c@d":                 {a("", "a", "b"), a("", "c", "d")},
		"a@b c@d, e@f":             {a("", "a", "b"), a("", "e", "f")},
		"<a@b":                     {a("", "a", SyntaxError)},
		"root":                     {a("", "root", MissingDomain)},
		"Just A Name":              {a("Just A Name", MissingMailbox, MissingDomain)},
		`"a b"@c`:                  {a("", "a b", "c")},
		"<@r,@s:a@b>":              {{Route: "@r,@s", Mailbox: "a", Host: "b"}},
		"jürgen@exämple.de":        {a("", "jürgen", "exämple.de")},
		"=?utf-8?q?=C3=BC?= <a@b>": {a("=?utf-8?q?=C3=BC?=", "a", "b")},
		"a@[1.2.3.4]":              {a("", "a", "[1.2.3.4]")},
		",,a@b,,":                  {a("", "a", "b")},
	} {
		if got := ParseAddressList([]byte(raw)); !reflect.DeepEqual(got, want) {
			t.Errorf("ParseAddressList(%q) = %+v, want %+v", raw, got, want)
		}
	}
}

func TestAddr(t *testing.T) {
	for want, a := range map[string]Address{
		"a@b":           {Mailbox: "a", Host: "b"},
		`"a b"@c`:       {Mailbox: "a b", Host: "c"},
		`"a\"b\\"@c`:    {Mailbox: `a"b\`, Host: "c"},
		"":              {Mailbox: "group"},
		`"a..b"@c`:      {Mailbox: "a..b", Host: "c"},
		"x.y@[1.2.3.4]": {Mailbox: "x.y", Host: "[1.2.3.4]"},
	} {
		if got := a.Addr(); got != want {
			t.Errorf("%+v: Addr() = %q, want %q", a, got, want)
		}
	}
	for _, a := range ParseAddressList([]byte("root, <a@b, Name")) {
		if a.Addr() != "" {
			t.Errorf("%+v is not an address, but Addr() is %q", a, a.Addr())
		}
	}
}

func TestParseDate(t *testing.T) {
	for raw, want := range map[string]string{
		"Fri, 21 Nov 1997 09:55:06 -0600":                 "1997-11-21T09:55:06-06:00",
		"Fri,\r\n 21 Nov 1997\t09:55:06 -0600 (CST)":      "1997-11-21T09:55:06-06:00",
		"21 Nov 97 09:55:06 GMT":                          "1997-11-21T09:55:06Z",
		"21 Nov 03 09:55 EDT":                             "2003-11-21T09:55:00-04:00",
		"1 Jan 103 00:00:00 Z":                            "2003-01-01T00:00:00Z",
		"Fri, 21 Nov 1997 09(comment):   55  :  06 -0600": "1997-11-21T09:55:06-06:00",
		"Thu, 13 Feb 1969 23:32:54 -0330":                 "1969-02-13T23:32:54-03:30",
		"Fri Nov 21 09:55:06 1997":                        "1997-11-21T09:55:06Z",
		"Fri Nov 21 09:55:06 EST 1997":                    "1997-11-21T09:55:06-05:00",
		"1997-11-21T09:55:06Z":                            "1997-11-21T09:55:06Z",
		"1997-11-21 09:55:06 +0100":                       "1997-11-21T09:55:06+01:00",
		"21-Nov-1997 09:55:06 +0100":                      "1997-11-21T09:55:06+01:00",
		"Tue, 1 Jan 2019":                                 "2019-01-01T00:00:00Z",
		"Mon, 1 Jan 2019 1:02:03 PM":                      "2019-01-01T13:02:03Z",
		"Fri, 31 Dec 2021 23:59:60 +0000":                 "2022-01-01T00:00:00Z",
		"Tue, 1 Jan 2019 10:00:00 +02:00":                 "2019-01-01T10:00:00+02:00",
		"":                                                "",
		"Wed, 15 Dec 2010 59:10 -0500":                    "2010-12-15T00:00:00-05:00",
		"yesterday":                                       "",
		"32 Jan 2020":                                     "",
		"1 Foo 2020":                                      "",
		"Mon, 99 99 99":                                   "",
	} {
		got, ok := ParseDate(raw)
		if ok != (want != "") || ok && got.Format(time.RFC3339) != want {
			t.Errorf("ParseDate(%q) = %v, %t, want %s", raw, got.Format(time.RFC3339), ok, want)
		}
	}
	now := time.Date(2026, 11, 21, 10, 11, 12, 0, time.FixedZone("", -3600))
	if got, ok := ParseDate(FormatDate(now)); !ok || !got.Equal(now) {
		t.Errorf("ParseDate(FormatDate(%v)) = %v", now, got)
	}
}

func TestAddMissing(t *testing.T) {
	date := time.Date(2026, 11, 21, 10, 11, 12, 0, time.UTC)
	const dateLine, idLine = "Date: Sat, 21 Nov 2026 10:11:12 +0000\r\n", "Message-ID: <x@y>\r\n"
	for header, want := range map[string]string{
		"From: a@b\r\n\r\n":                     dateLine + idLine,
		"date: x\r\n\r\n":                       idLine,
		"MESSAGE-ID : <a@b>\r\n\r\n":            dateLine,
		"Date: x\r\nMessage-ID: y\r\n\r\n":      "",
		"Hello there\r\nDate: x\r\n":            dateLine + idLine + "\r\n",
		"From a@b Mon Jan 1\r\nDate: x\r\n\r\n": idLine,
		"Hello there: a\r\n\r\n":                dateLine + idLine + "\r\n",
		"":                                      dateLine + idLine,
		"\r\n":                                  dateLine + idLine,
		"X: y\r\n Date: folded\r\n\r\nDate: x\r\n": dateLine + idLine,
	} {
		got := AddMissing([]byte(header), date, "x@y")
		if string(got) != want {
			t.Errorf("AddMissing(%q) = %q, want %q", header, got, want)
		}
		// With the lines before it, nothing is missing any more.
		whole := append(got, header...)
		if again := AddMissing(whole, date, "x@y"); again != nil {
			t.Errorf("after AddMissing(%q) %q is missing", header, again)
		}
	}
}

func TestInspectHeader(t *testing.T) {
	f := InspectHeader([]byte("From: a@b\r\nfrom: C <c@d>, e@f\r\nSender: g@h\r\nBcc: i@j\r\n\r\nFrom: k@l\r\n"))
	if f.From != 2 || len(f.FromAddresses) != 3 || f.FromAddresses[2].Addr() != "e@f" ||
		f.Sender != 1 || f.SenderAddresses[0].Addr() != "g@h" || f.Bcc != 1 || f.NoHeader {
		t.Errorf("%+v", f)
	}
}

func TestMessageIDs(t *testing.T) {
	for value, want := range map[string][]string{
		" <a@b>\r\n\t<c@d>":            {"a@b", "c@d"},
		"a@b c":                        {"a@b"},
		"Your message of <a @b> <open": {"a@b"},
		"":                             nil,
		"<>":                           nil,
	} {
		if got := MessageIDs([]byte(value)); !reflect.DeepEqual(got, want) {
			t.Errorf("MessageIDs(%q) = %q, want %q", value, got, want)
		}
	}
	if got := NormaliseMessageID(" <a@b>\r\n"); got != "a@b" {
		t.Errorf("NormaliseMessageID = %q", got)
	}
}

func TestFilename(t *testing.T) {
	for header, want := range map[string]string{
		"Content-Disposition: attachment; filename=a.txt":                                         "a.txt",
		"Content-Disposition: attachment; filename*=utf-8''gr%C3%BC%C3%9Fe.txt; filename=x":       "grüße.txt",
		"Content-Disposition: attachment; filename*0*=iso-8859-1'de'gr%FC; filename*1=\"%e.txt\"": "gr\u00fc%e.txt",
		"Content-Type: a/b; name=\"=?utf-8?q?gr=C3=BC=C3=9Fe?=\"":                                 "grüße",
		"Content-Type: a/b; name*0=long; name*1=er":                                               "longer",
		"Content-Type: a/b": "",
	} {
		ix := ReadIndex([]byte("MIME-Version: 1.0\r\n" + header + "\r\n\r\n"))
		if got := ix.Root.Filename(); got != want {
			t.Errorf("%s: Filename is %q, want %q", header, got, want)
		}
	}
}

// TestLongFields checks that reading a long field takes no longer than its
// length explains. What is quadratic takes hundreds of times as long as plain
// text here, whatever the machine.
func TestLongFields(t *testing.T) {
	size := 512 << 10
	if testing.Short() {
		size /= 4
	}
	read := func(unit string) time.Duration {
		value := []byte(strings.Repeat(unit, size/len(unit)))
		start := time.Now()
		DecodeHeader(value)
		ParseAddressList(value)
		MessageIDs(value)
		ParseDate(string(value))
		contentType(append([]byte("a/b;"), value...))
		ReadIndex(append([]byte("MIME-Version: 1\nContent-Type: a/b"), append(value, "\nTo:"+string(value)...)...))
		return time.Since(start)
	}
	limit := 50 * max(read("plain text "), 20*time.Millisecond)
	for _, unit := range []string{
		"=?", "=?a?q?", "=?a?q? ", "=?a?b?", "=?a?q?b?= ", "?=", "(", "\"", "<", "@", "a@[", "a@[,", ",", ";", ":",
		"a:", "a<", "a ", "a,", "a=b;", ";a=", ";a*0=b", "\\", "<a@b> ", "a\n ", ".", "--", "1 Jan ", "\x80", "\x00",
	} {
		if took := read(unit); took > limit {
			t.Errorf("%q takes %v, more than %v", unit, took, limit)
		}
	}
}

// FuzzHeader checks that reading fields never fails, stays in proportion, and
// that all fields together are the header.
func FuzzHeader(f *testing.F) {
	for _, m := range brokenMessages {
		f.Add([]byte(m))
	}
	for i := range 50 {
		f.Add(randomHeader(uint64(i)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		header, body := SplitHeader(b)
		if !bytes.Equal(append(bytes.Clone(header), body...), b) {
			t.Fatal("header and body are not the message")
		}
		if n := ReadIndex(b).Root.HeaderLen; n != int64(len(header)) && !bytes.Contains(header, []byte("--")) {
			t.Fatalf("the header is %d bytes, in the index %d", len(header), n)
		}
		all := FilterHeader(header, nil, true)
		if !bytes.HasPrefix(all, bytes.TrimRight(header, "\r\n")) {
			t.Fatalf("all fields of %q are %q", header, all)
		}
		for _, value := range HeaderFields(header) {
			if s := DecodeHeader(value); len(s) > 4*len(value)+4 || !strings.EqualFold(strings.ToValidUTF8(s, ""), s) {
				t.Fatalf("DecodeHeader(%q) = %q", value, s)
			}
			for _, a := range ParseAddressList(value) {
				_ = a.Addr() + a.DecodedName()
			}
			MessageIDs(value)
			ParseDate(string(value))
			_ = Unfold(value)
		}
		date := time.Unix(0, 0)
		if again := AddMissing(append(AddMissing(header, date, "x@y"), header...), date, "x@y"); again != nil {
			t.Fatalf("%q is still missing in %q", again, header)
		}
	})
}
