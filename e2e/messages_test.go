package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/bench/loadgen"
	"holdfast/e2e/outside"
)

// What is in every message of residueMail, and must be readable nowhere.
const (
	secretSender  = "wilhelmina.quagga@sender.example"
	secretSubject = "Plover-Crossing-58213"
	secretBody    = "the heron pays nineteen thousand crowns"
	secretFile    = "okapi-ledger-77120.csv"
	secretContent = "account 4417-okapi balance forward"
)

// secretUsers have addresses that occur nowhere else.
func secretUsers() []outside.User {
	return []outside.User{
		{Address: "marguerite.ibex@acme.test", Aliases: []string{"ostrich.desk@acme.test"}, Password: "first secret of many"},
		{Address: "thaddeus.gnu@acme.test", Password: "second secret of many"},
	}
}

// needles are what a search for remains looks for.
func needles(t *testing.T) *outside.Residue {
	t.Helper()
	texts := []string{secretSender, "wilhelmina.quagga", secretSubject, secretBody, secretFile, secretContent}
	for _, u := range secretUsers() {
		local, _, _ := strings.Cut(u.Address, "@")
		texts = append(texts, local, u.Password)
	}
	r, err := outside.NewResidue(append(texts, "ostrich.desk")...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// residueMail makes n messages of mail-like sizes that all carry the secrets, as
// text, in base64, and in a header; each is different.
func residueMail(n int) [][]byte {
	var mail [][]byte
	for i, m := range loadgen.Generate(loadgen.Spec{Seed: 7, Count: n, Domain: "acme.test", Recipients: 2}) {
		raw := bytes.ReplaceAll(bytes.TrimSuffix(m.Wire, []byte(".\r\n")), []byte("\r\n.."), []byte("\r\n."))
		table := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s;%d\n", secretContent, i))
		head := fmt.Sprintf("Message-ID: <residue.%d@sender.example>\r\nX-Subject: %s\r\nX-Note: %s\r\nX-File: %s\r\nX-Table: %s\r\n", i, secretSubject, secretBody, secretFile, table)
		mail = append(mail, append([]byte(head), raw...))
	}
	return mail
}

// numbered is a small message that can be told from all others.
func numbered(kind string, n int) []byte {
	id := strings.ReplaceAll(kind, " ", "-")
	return fmt.Appendf(nil, "From: Sender <sender@remote.example>\r\nTo: Alice <alice@acme.test>\r\nSubject: %s %d\r\nMessage-ID: <%s.%d@remote.example>\r\nX-Number: %d\r\n\r\nThis is %s number %d.\r\n", kind, n, id, n, n, kind, n)
}

// hardMail is mail that strains a reader: every message here is one that a
// mail system has refused, changed or lost somewhere.
func hardMail(t *testing.T) map[string][]byte {
	t.Helper()
	long := strings.Repeat("x", 5000)
	random := make([]byte, 40_000)
	rng := rand.New(rand.NewPCG(9, 9))
	for i := range random {
		if random[i] = byte(rng.Uint32()); random[i] == '\r' || random[i] == '\n' || random[i] == 0 {
			random[i] = ' '
		}
	}
	deep := new(strings.Builder)
	for i := range 120 {
		fmt.Fprintf(deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	mail := map[string]string{
		"empty line only":             "\r\n",
		"header only":                 "Subject: header only\r\n",
		"body only":                   "\r\nbody only\r\n",
		"no colon anywhere":           "this is not a header\r\nnor is this\r\n\r\nbody\r\n",
		"dots":                        "Subject: dots\r\n\r\n.\tone\r\n..\r\n...\r\n.leading\r\ntrailing.\r\n",
		"bare LF":                     "Subject: bare\n\r\nline\nline\nline\r\nend\r\n",
		"bare CR":                     "Subject: bare cr\r\n\r\nline\rline\r\nend\r\n",
		"long line":                   "Subject: long\r\n\r\n" + long + "\r\n",
		"long header":                 "Subject: " + long + "\r\n\r\nbody\r\n",
		"folded deep":                 "Subject: a\r\n " + strings.Repeat("b\r\n ", 200) + "c\r\n\r\nbody\r\n",
		"NUL bytes":                   "Subject: nul\r\n\r\na\x00b\x00c\r\n",
		"eight bits in header":        "Subject: Gr\xfc\xdfe\r\n\r\nlatin1 \xe4\xf6\xfc\r\n",
		"invalid UTF-8":               "Subject: \xff\xfe\xc0\xaf\r\n\r\n\xed\xa0\x80\r\n",
		"binary":                      "Subject: binary\r\nContent-Transfer-Encoding: binary\r\n\r\n" + string(random) + "\r\n",
		"boundary never closed":       "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\nopen\r\n",
		"boundary never used":         "Content-Type: multipart/mixed; boundary=x\r\n\r\nnothing\r\n",
		"empty boundary":              "Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n--\r\n\r\n",
		"boundary is a prefix":        "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: multipart/mixed; boundary=xx\r\n\r\n--xx\r\n\r\na\r\n--xx--\r\n--x--\r\n",
		"nested 120 deep":             "Subject: deep\r\n" + deep.String(),
		"message in message":          "Content-Type: message/rfc822\r\n\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nbody\r\n",
		"base64 broken":               "Content-Transfer-Encoding: base64\r\n\r\n!!!not base64===\r\nAAA\r\n",
		"quoted-printable broken":     "Content-Transfer-Encoding: quoted-printable\r\n\r\n=ZZ=\r\n=\r\n=3\r\n",
		"encoded words broken":        "Subject: =?utf-8?B?????= =?x?Q?=?= =?\r\nFrom: =?utf-8?Q?=00?= <@>\r\n\r\nbody\r\n",
		"charset unknown":             "Content-Type: text/plain; charset=klingon\r\n\r\nqapla\r\n",
		"same field twice":            "From: a@x.example\r\nFrom: b@x.example\r\nSubject: one\r\nSubject: two\r\nTo: x\r\nTo: y\r\n\r\nbody\r\n",
		"addresses broken":            "From: <<<a@b>>>\r\nTo: a@, @b, (c, \"d\r\nCc: undisclosed-recipients:;\r\n\r\nbody\r\n",
		"date broken":                 "Date: 99 Foo 99999 99:99:99 +9999\r\n\r\nbody\r\n",
		"UTF-8 header":                "Subject: Ærø 日本語 🦔\r\nFrom: 用户 <用户@例え.example>\r\n\r\nbody\r\n",
		"ISO-2022-JP":                 "Content-Type: text/plain; charset=iso-2022-jp\r\nSubject: =?ISO-2022-JP?B?GyRCRnxLXDhsGyhC?=\r\n\r\n\x1b$BF|K\\8l\x1b(B\r\n",
		"delivery report":             "Content-Type: multipart/report; report-type=delivery-status; boundary=r\r\n\r\n--r\r\n\r\nfailed\r\n--r\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nAction: failed\r\n--r--\r\n",
		"looks like SMTP":             "Subject: smtp\r\n\r\nMAIL FROM:<x@y>\r\nRCPT TO:<z@y>\r\nDATA\r\nQUIT\r\n",
		"whitespace before the colon": "Subject : odd\r\n\r\nbody\r\n",
		"begins with a space":         " folded from nothing\r\nSubject: x\r\n\r\nbody\r\n",
		"ten thousand fields":         strings.Repeat("X-A: b\r\n", 10_000) + "\r\nbody\r\n",
		"own Received imitated":       "Received: from nowhere by mx.holdfast.test; now\r\nSubject: x\r\n\r\nbody\r\n",
	}
	out := map[string][]byte{}
	for name, text := range mail {
		out[name] = []byte(text)
	}
	addCorpus(t, out)
	return out
}

// addCorpus adds the messages of the directory HOLDFAST_CORPUS, if there is one.
// A file with Unix line ends is given those of mail first.
func addCorpus(t *testing.T, out map[string][]byte) {
	t.Helper()
	dir := os.Getenv("HOLDFAST_CORPUS")
	if dir == "" {
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no .eml files in %s: %v", dir, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(data, []byte("\r\n")) {
			data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
		}
		// A bare CR or LF just before the end of data may be refused, so the end is
		// made unambiguous; what is inside stays.
		out[filepath.Base(file)] = append(bytes.TrimRight(data, "\r\n"), "\r\n"...)
	}
}

// digest names content in a test's message, which should stay short.
func digest(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
