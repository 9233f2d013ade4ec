// Package loadgen makes mail that looks like real mail and sends it over SMTP,
// counting what is accepted and how long it took. One generator serves every
// server that is compared, so that their figures mean the same.
//
// Messages are made beforehand, in their wire form, and shared by all sessions:
// while a server is being measured, the generator does little but read and write
// sockets.
package loadgen

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// Sizes of the messages: log-normal as mail is, cut off at both ends.
const (
	MinSize    = 2 << 10
	MedianSize = 12 << 10
	MaxSize    = 5 << 20
	// sizeSigma is the spread of the logarithm of the size. With 1.5 one message in
	// ten is larger than 80 KB, one in a hundred larger than 400 KB, and in a day of
	// thirty thousand messages one has 5 MB, which is where the cut is.
	sizeSigma = 1.5
)

// attachmentSize is the size from which a message is mostly attachments: nobody
// writes 32 KB of text.
const attachmentSize = 32 << 10

// A Message is one message ready to be sent, except for its Message-ID, which
// each sending puts above it: the same text twice is then two messages.
type Message struct {
	From    string   // reverse-path without angle brackets
	To      []string // recipients
	Subject string
	Wire    []byte // dot-stuffed, with CRLF line ends, closed by ".\r\n"
	Size    int    // bytes before dot-stuffing, without the closing line
}

// Spec says what messages to make. The same Spec makes the same messages.
type Spec struct {
	Seed       uint64
	Count      int    // messages in the pool
	Domain     string // of the recipients
	Recipients int    // how many there are; see Recipient
	FixedSize  int    // if not zero, every message has about this size
}

// Recipient is the address of the i-th recipient of a domain.
func Recipient(i int, domain string) string { return fmt.Sprintf("user%04d@%s", i, domain) }

// Generate makes the pool of messages. Their sizes are the quantiles of the
// distribution in random order, so that a small pool has the shape of a large one.
func Generate(s Spec) []Message {
	rng := rand.New(rand.NewPCG(s.Seed, 1))
	w := newWriter(rng)
	pool := make([]Message, s.Count)
	for at, quantile := range rng.Perm(s.Count) {
		size := s.FixedSize
		if size == 0 {
			size = sizeAt((float64(quantile) + 0.5) / float64(s.Count))
			if quantile == s.Count-1 {
				size = MaxSize
			}
		}
		subject := w.subject()
		raw := w.message(size, subject, s)
		pool[at] = Message{
			From:    w.address(),
			To:      recipients(rng, s),
			Subject: subject,
			Wire:    dotStuff(raw),
			Size:    len(raw),
		}
	}
	return pool
}

// sizeAt is the size below which a share of p of all messages lies.
func sizeAt(p float64) int {
	z := math.Sqrt2 * math.Erfinv(2*p-1)
	return min(MaxSize, max(MinSize, int(MedianSize*math.Exp(sizeSigma*z))))
}

// recipients draws the recipients of one message: nearly always one, and some
// people get far more mail than others.
func recipients(rng *rand.Rand, s Spec) []string {
	n := 1
	switch p := rng.Float64(); {
	case p > 0.98:
		n = 5
	case p > 0.90:
		n = 2
	}
	n = min(n, s.Recipients)
	var to []string
	for seen := map[int]bool{}; len(to) < n; {
		i := int(float64(s.Recipients) * math.Pow(rng.Float64(), 1.7))
		if !seen[i] {
			seen[i] = true
			to = append(to, Recipient(i, s.Domain))
		}
	}
	return to
}

// dotStuff returns the message as DATA carries it. RFC 5321 §4.5.2
func dotStuff(raw []byte) []byte {
	wire := make([]byte, 0, len(raw)+8)
	for line := range bytes.Lines(raw) {
		if line[0] == '.' {
			wire = append(wire, '.')
		}
		wire = append(wire, line...)
	}
	return append(wire, ".\r\n"...)
}

// MessageID is the Message-ID, with its angle brackets, of the n-th message that
// a run with this tag sends, from 0.
func MessageID(tag string, n int) string { return fmt.Sprintf("<%s.%d@loadgen.example>", tag, n) }

// message makes one message of about the wanted size.
func (w *writer) message(size int, subject string, s Spec) []byte {
	b := new(bytes.Buffer)
	b.Grow(size + 4096)
	w.header(b, subject, s)
	boundary := "=_" + w.token(24)
	left := size - b.Len()
	switch {
	case size < 6<<10 && w.rng.IntN(2) == 0:
		b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n")
		w.text(b, size)
	case size < attachmentSize:
		fmt.Fprintf(b, "MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=\"%s\"\r\n\r\n", boundary)
		fmt.Fprintf(b, "--%s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", boundary)
		w.text(b, b.Len()+left*2/5)
		fmt.Fprintf(b, "\r\n--%s\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n", boundary)
		w.html(b, size)
		fmt.Fprintf(b, "\r\n--%s--\r\n", boundary)
	default:
		fmt.Fprintf(b, "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"%s\"\r\n\r\n", boundary)
		fmt.Fprintf(b, "--%s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", boundary)
		w.text(b, b.Len()+2000+w.rng.IntN(6000))
		for parts := 1 + w.rng.IntN(3); parts > 0; parts-- {
			fmt.Fprintf(b, "\r\n--%s\r\n", boundary)
			w.attachment(b, (size-b.Len())/parts)
		}
		fmt.Fprintf(b, "\r\n--%s--\r\n", boundary)
	}
	return b.Bytes()
}

// header writes the fields that mail arrives with, but for those of MIME.
func (w *writer) header(b *bytes.Buffer, subject string, s Spec) {
	date := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(w.rng.Int64N(300*24*3600)) * time.Second)
	stamp := date.Format("Mon, 2 Jan 2006 15:04:05 -0700")
	from, domain := w.address(), w.word()+".example"
	for range 1 + w.rng.IntN(3) {
		fmt.Fprintf(b, "Received: from mail-%s.%s (mail-%s.%s [192.0.2.%d])\r\n\tby mx%d.%s with ESMTPS id %s\r\n\t(version=TLS1_3 cipher=TLS_AES_256_GCM_SHA384 bits=256/256);\r\n\t%s\r\n",
			w.token(6), domain, w.token(6), domain, 1+w.rng.IntN(254), 1+w.rng.IntN(9), domain, w.token(14), stamp)
	}
	fmt.Fprintf(b, "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=%s; s=%s;\r\n\th=from:to:subject:date:message-id:mime-version:content-type;\r\n\tbh=%s=;\r\n", domain, w.token(8), w.token(43))
	b.WriteString("\tb=")
	for range 5 {
		b.WriteString(w.token(64) + "\r\n\t ")
	}
	b.WriteString(w.token(20) + "==\r\n")
	fmt.Fprintf(b, "Authentication-Results: mx.%s; dkim=pass header.d=%s; spf=pass smtp.mailfrom=%s\r\n", domain, domain, from)
	fmt.Fprintf(b, "Date: %s\r\nFrom: %s %s <%s>\r\nTo: %s\r\nSubject: %s\r\n", stamp, title(w.word()), title(w.word()), from, Recipient(w.rng.IntN(max(1, s.Recipients)), s.Domain), subject)
	if w.rng.IntN(3) == 0 {
		fmt.Fprintf(b, "In-Reply-To: <%s@%s>\r\nReferences: <%s@%s>\r\n", w.token(20), domain, w.token(20), domain)
	}
	if w.rng.IntN(4) == 0 {
		fmt.Fprintf(b, "List-Unsubscribe: <https://%s/u/%s>\r\nList-Id: <%s.%s>\r\n", domain, w.token(40), w.word(), domain)
	}
}

// attachment writes one part of about the wanted size in base64: mostly of
// bytes that do not compress, as pictures and documents are, sometimes of text.
func (w *writer) attachment(b *bytes.Buffer, size int) {
	kind, ext := "application/pdf", "pdf"
	var content []byte
	n := max(0, size-200) * 57 / 78 // 57 bytes become one line of 76 characters and CRLF.
	if w.rng.IntN(5) == 0 {
		kind, ext = "text/csv", "csv"
		text := new(bytes.Buffer)
		w.text(text, n)
		content = text.Bytes()
	} else {
		content = make([]byte, n)
		for i := range content {
			content[i] = byte(w.rng.Uint32())
		}
	}
	fmt.Fprintf(b, "Content-Type: %s; name=\"%s.%s\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"%s.%s\"\r\n\r\n", kind, w.word(), ext, w.word(), ext)
	line := make([]byte, 76)
	for len(content) > 0 {
		chunk := content[:min(57, len(content))]
		content = content[len(chunk):]
		n := base64.StdEncoding.EncodedLen(len(chunk))
		base64.StdEncoding.Encode(line[:n], chunk)
		b.Write(line[:n])
		b.WriteString("\r\n")
	}
}

func title(word string) string { return strings.ToUpper(word[:1]) + word[1:] }
