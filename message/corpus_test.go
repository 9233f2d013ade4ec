package message

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	// Kept among the dependencies for its collection of hard messages.
	_ "github.com/jhillyerd/enmime/v2"
)

type namedMessage struct {
	name  string
	bytes []byte
}

// corpus returns the messages of testdata and those that the enmime library
// has for its own tests.
func corpus(t testing.TB) []namedMessage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/jhillyerd/enmime/v2").Output()
	if err != nil {
		t.Fatalf("find the test messages of enmime: %v", err)
	}
	var all []namedMessage
	for _, pattern := range []string{
		"testdata/*/*.eml",
		filepath.Join(strings.TrimSpace(string(out)), "testdata", "*", "*.raw"),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) < 50 {
			t.Fatalf("%d messages match %s, %v", len(files), pattern, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, namedMessage{filepath.Base(file), b})
		}
	}
	return all
}

// brokenMessages are messages that are wrong in one point each.
var brokenMessages = []string{
	"",
	"\n",
	"\r\n\r\n",
	"Subject: no end",
	"Subject: no blank line\r\n",
	"no header at all\r\nnor here\r\n",
	"Subject:\r\n folded at once\r\nDate:\r\n\tFri, 1 Jan 2021\r\nMessage-ID:\r\n <a@b>\r\n\r\nx",
	"Subject: two   spaces\t and\r\n\ta tab \r\nIn-Reply-To: <a@b>\r\n\t<c@d>\r\n\r\n",
	"From: a@b\r\nFrom: c@d\r\nSubject: one\r\nSubject: two\r\n\r\n",
	"From: \"unclosed <a@b>\r\nTo: a@b, \"c\" <d@e>, f (g) <h@i>, j@k (l)\r\n\r\n",
	"To: undisclosed-recipients:;\r\nCc: group: a@b, c <d@e>;, f@g\r\nBcc: x: y\r\n\r\n",
	"To: a@b; c@d\r\nCc: , ,a@b,,\r\nBcc: <@r1,@r2:a@b>\r\nReply-To: <>\r\nSender: a b c\r\n\r\n",
	"To: a@[1.2.3.4], \"quoted \\\" local\"@b, a.b.@c, .a@b, a..b@c, lone\r\n\r\n",
	"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\nepilogue\r\n",
	"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b",
	"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n",
	"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n--b\r\n--b\r\nx: y\r\n\r\n--b--",
	"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\nSubject: cut\n--b--\n",
	"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n--b\n\nx\n--b--\n",
	"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\n--b\n\nx\n--b--\n",
	"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=bb\n\n--bb\n\nx\n--bb--\n--b\n\ny\n--b--\n",
	"Content-Type: multipart/mixed; boundary=bb\n\n--bb\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n--bb\n\ny\n--bb--\n",
	"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\nx\n--b\n\ny\n--c\n\nz\n--b--\n",
	"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n--b\n\ny\n--b--\n",
	"Content-Type: multipart/mixed; boundary=\"\"\n\n--\n\nx\n-- \ny\n----\nz\n",
	"Content-Type: multipart/mixed\n\n--b\n\nx\n",
	"Content-Type: multipart/mixed; boundary=b\n\nnothing here\n",
	"Content-Type: multipart/mixed; boundary=b",
	"Content-Type: multipart/mixed; boundary=b--\n\n--b--\n\nx\n--b----\n",
	"Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: one\n\nx\n--b\nContent-Type: text/plain\n\ny\n--b\nx: y\n\nFrom: a@b\n--b--\n",
	"Content-Type: multipart/alternative; boundary=\"a b \"\r\n\r\n--a b \r\n\r\nx\r\n--a b\r\n\r\ny\r\n--a b --\r\n",
	"Content-Type: message/rfc822\n\nContent-Type: message/rfc822\n\nSubject: deep\n\nx\n",
	"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogeAoKeQo=\n",
	"Content-Type: message/delivery-status\n\nReporting-MTA: dns; a\n\nAction: failed\n",
	"Content-Type: text\n\nx\n",
	"Content-Type: text/\n\nx\n",
	"Content-Type: /plain\n\nx\n",
	"Content-Type: application\n\nx\n",
	"Content-Type: multipart\n\nx\n",
	"Content-Type: multipart/; boundary=b\n\n--b\n\nx\n--b--\n",
	"Content-Type:\n\nx\n",
	"Content-Type: ;charset=utf-8\n\nx\n",
	"Content-Type: text/plain; charset\n\nx\n",
	"Content-Type: text/plain; name==?utf-8?q?x?=; charset=utf-8\n\nx\n",
	"Content-Type: text/plain; name*0=a; name*2=b; name*1*=utf-8''%41; x*y=z\n\nx\n",
	"Content-Type: text/plain; other*=utf-8''%20x; x*y=z; Z*0=1; z*1=2\n\nx\n",
	"Content-Type: text/plain; name*0=a; name*2=b; a=\"b\\\"c\"; d=e f; g=h\n\nx\n",
	"Content-Type: text/plain; name=\"unclosed\n\nx\n",
	"Content-Type: text/plain; name=unquoted name.txt; charset=utf-8;;\n\nx\n",
	"Content-Type: text/plain (comment); charset=(c) utf-8 (d)\n\nx\n",
	"Content-Type: text/html\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable;\nContent-Transfer-Encoding: 8bit\n\nx\n",
	"Content-Transfer-Encoding: base64\nContent-ID: <a@b>\n\nx\n",
	"MIME-Version: 1.0\nContent-Transfer-Encoding: base64\nContent-ID: <a@b> \nContent-Description: a\n  b\nContent-Language: de, en (x), fr-CH\nContent-Location:\n http://a/\n b\nContent-MD5: x\nContent-Disposition: attachment; filename=a; size=3\n\nx\n",
	"MIME-Version: 1.0\nContent-Disposition: inline\nContent-Disposition: attachment; filename=x\nContent-Disposition: y; z=1\n\nx\n",
	"MIME-Version: 1.0\nContent-Disposition:\nContent-Language:\n\nx\n",
	" Subject: begins with a space\nTo: a@b\n\nx\n",
	"Subject : space before the colon\nTo\t: a@b\n\nx\n",
	"From a@b Mon Jan 1\nSubject: mbox\n\nx\n",
	"Subject: =?utf-8?q?a?=\n =?utf-8?q?b?=\n\nx\n",
	"Subject: \xe4\xf6\xfc\nFrom: \xe4 <a@b>\n\n\xff\n",
	"Subject: bare\rCR\r\n\r\nx\ry\r\n",
	"Subject: mixed\r\nTo: a@b\n\nx\r\ny\n",
}

// randomMessage returns a message put together from pieces that matter to a
// reader of MIME.
func randomMessage(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	pieces := []string{
		"--b", "--bb", "--b--", "--bb--", "--", "----", "-", "b", "text", " text", "\ttext",
		"Content-Type: multipart/mixed; boundary=b", "Content-Type: multipart/digest; boundary=bb",
		"Content-Type: multipart/alternative;", " boundary=\"b\"", "Content-Type: message/rfc822",
		"Content-Type: text/html; charset=utf-8", "Content-Type: message/rfc822; x=y", "MIME-Version: 1.0",
		"Content-Disposition: attachment; filename=\"x y\"", "Content-Transfer-Encoding: base64", "Subject: s",
		"From: a <b@c>, d@e", "To: g: h@i, j;", "Date: d", "", "", "", "",
	}
	var out []byte
	for range 2 + r.IntN(40) {
		end := "\r\n"
		if r.IntN(8) == 0 {
			end = "\n"
		}
		out = append(out, pieces[r.IntN(len(pieces))]+end...)
	}
	if r.IntN(3) == 0 {
		out = out[:len(out)-1-r.IntN(len(out)-1)]
	}
	return out
}

// randomHeader returns a message with fields put together from the tokens of
// RFC 5322 and RFC 2231, most of them in places where they are wrong.
func randomHeader(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	names := []string{
		"To: ", "Cc: ", "From:", "Content-Type: text/plain", "Content-Type: ", "Subject: ",
		"Content-Disposition: attachment", "Content-Language: ", "Content-ID: x",
		"Content-Transfer-Encoding: ", "Message-ID: x", "In-Reply-To:x", "Date: x",
		"Content-Type: multipart/mixed; ",
	}
	tokens := []string{
		"a", "b", "@", "@", "<", ">", ",", ",", ";", ";", ":", ".", "\"q s\"", "\"\\\"\"", "(c)", "(", ")",
		" ", " ", "\t", "\r\n ", "\n\t", "=", "[", "]", "name", "name*", "name*0*", "name*1",
		"utf-8''%41", "charset=utf-8", "x=y", "=?utf-8?q?a?=", "/", "text/plain", "base64", "7bit",
		"%", "\u00e9", "boundary=b", "\r",
	}
	out := []byte("MIME-Version: 1.0\r\n")
	for range 1 + r.IntN(6) {
		out = append(out, names[r.IntN(len(names))]...)
		for range r.IntN(14) {
			out = append(out, tokens[r.IntN(len(tokens))]...)
		}
		out = append(out, "\r\n"...)
	}
	return append(out, "\r\nbody\r\n--b\r\n\r\nx\r\n--b--\r\n"...)
}
