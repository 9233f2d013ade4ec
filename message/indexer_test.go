package message

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

var update = flag.Bool("update", false, "write the golden files")

// everyMessage returns the messages that all properties are checked on.
func everyMessage(t testing.TB) []namedMessage {
	all := corpus(t)
	for i, m := range brokenMessages {
		all = append(all, namedMessage{fmt.Sprintf("broken %d", i), []byte(m)})
	}
	for i := range 300 {
		all = append(all, namedMessage{fmt.Sprintf("random %d", i), randomMessage(uint64(i))})
	}
	return all
}

// checkIndex checks what holds for the index of any message.
func checkIndex(t testing.TB, message []byte, ix *Index) {
	t.Helper()
	if ix.Size != int64(len(message)) || ix.Root.Offset != 0 ||
		ix.Root.HeaderLen+ix.Root.BodyLen != ix.Size {
		t.Fatalf("the message is %d bytes, the root part %+v", len(message), ix.Root)
	}
	if lines := int64(bytes.Count(message, []byte{'\n'})); ix.Lines != lines {
		t.Fatalf("Lines is %d, want %d", ix.Lines, lines)
	}
	var check func(p *Part, from, to int64)
	check = func(p *Part, from, to int64) {
		t.Helper()
		off, n := p.Body()
		if p.Offset < from || p.HeaderLen < 0 || n < 0 || off+n > to {
			t.Fatalf("part [%d,+%d,+%d) is not within [%d,%d)", p.Offset, p.HeaderLen, n, from, to)
		}
		lines := int64(bytes.Count(message[off:off+n], []byte{'\n'}))
		if p.Lines != lines {
			t.Fatalf("part at %d: Lines is %d, want %d", p.Offset, p.Lines, lines)
		}
		if p.Type == "" || p.Subtype == "" || p.Encoding == "" {
			t.Fatalf("part at %d has no type or encoding", p.Offset)
		}
		at := off
		for i := range p.Children {
			check(&p.Children[i], at, off+n)
			childOff, childN := p.Children[i].Body()
			at = childOff + childN
		}
		if m := p.Message; m != nil {
			check(&m.Root, off, off+n)
			if m.Root.Offset != off {
				t.Fatalf("the message in the part at %d begins at %d, want %d", p.Offset, m.Root.Offset, off)
			}
		}
	}
	check(&ix.Root, 0, ix.Size)
	count := 0
	ix.Walk(func(path []int, p *Part) bool {
		count++
		if q := ix.Part(path); q != p {
			t.Fatalf("Part(%v) is another part", path)
		}
		for _, spec := range []Specifier{Whole, Header, Text, MIME} {
			if off, n, ok := ix.Section(path, spec); ok && (off < 0 || n < 0 || off+n > ix.Size) {
				t.Fatalf("Section(%v, %d) is [%d,+%d)", path, spec, off, n)
			}
		}
		return true
	})
	if count == 0 || count > 2*MaxParts+2 {
		t.Fatalf("Walk visits %d parts", count)
	}
}

func TestIndexProperties(t *testing.T) {
	for _, m := range everyMessage(t) {
		t.Run(m.name, func(t *testing.T) {
			checkIndex(t, m.bytes, ReadIndex(m.bytes))
		})
	}
}

func TestIndexDoesNotDependOnChunks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, m := range everyMessage(t) {
		want := ReadIndex(m.bytes)
		for _, size := range []int{1, 2, 7, 0, 4096} {
			x := NewIndexer()
			for rest := m.bytes; len(rest) > 0; {
				n := size
				if n == 0 {
					n = 1 + r.IntN(100)
				}
				n = min(n, len(rest))
				piece := bytes.Clone(rest[:n])
				if wrote, err := x.Write(piece); wrote != n || err != nil {
					t.Fatalf("Write = %d, %v", wrote, err)
				}
				clear(piece) // the indexer must not have kept it
				rest = rest[n:]
			}
			if got := x.Finish(); !reflect.DeepEqual(got, want) {
				t.Errorf("%s in pieces of %d:\ngot  %+v\nwant %+v", m.name, size, got, want)
			}
		}
	}
}

// TestStructureGolden shows how the messages in testdata are read. Run it with
// -update after a change that is meant.
func TestStructureGolden(t *testing.T) {
	var out strings.Builder
	for _, m := range corpus(t) {
		if strings.HasSuffix(m.name, ".eml") {
			fmt.Fprintf(&out, "%s\n", m.name)
			dump(&out, ReadIndex(m.bytes))
		}
	}
	const file = "testdata/structure.golden"
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(out.String(), "\n")
	for i, line := range strings.Split(string(want), "\n") {
		if i >= len(got) || got[i] != line {
			t.Fatalf("%s:%d: %s\ngot %s", file, i+1, line, got[min(i, len(got)-1)])
		}
	}
}

func dump(out *strings.Builder, ix *Index) {
	fmt.Fprintf(out, "  size %d lines %d hops %d bareCR %t bareLF %t 8bit %t truncated %t\n",
		ix.Size, ix.Lines, ix.Hops, ix.HasBareCR, ix.HasBareLF, ix.Is8bit, ix.Truncated)
	fmt.Fprintf(out, "  subject %q date %q id %q\n", DecodeHeader([]byte(ix.Envelope.Subject)), ix.Envelope.Date, ix.Envelope.MessageID)
	for _, a := range ix.Envelope.From {
		fmt.Fprintf(out, "  from %q <%s>\n", a.DecodedName(), a.Addr())
	}
	for _, a := range ix.Envelope.To {
		fmt.Fprintf(out, "  to %q <%s>\n", a.DecodedName(), a.Addr())
	}
	ix.Walk(func(path []int, p *Part) bool {
		fmt.Fprintf(out, "  %v %s %s %d+%d+%d lines %d name %q\n",
			path, p.MediaType(), p.Encoding, p.Offset, p.HeaderLen, p.BodyLen, p.Lines, p.Filename())
		return true
	})
}

func TestIndexFacts(t *testing.T) {
	for _, tt := range []struct {
		message                     string
		bareCR, bareLF, is8bit, nul bool
		hops                        int
		longest                     int64
	}{
		{message: ""},
		{message: "a: b\r\n\r\nc\r\n", longest: 4},
		{message: "a: b\n\nc\r\n", bareLF: true, longest: 4},
		{message: "a: b\r\n\r\nc\rd", bareCR: true, longest: 4},
		{message: "\r\n\r", bareCR: true, longest: 1},
		{message: "\r\r\n", bareCR: true, longest: 1},
		{message: "\r\n\xe9\x00" + strings.Repeat("x", 100), is8bit: true, nul: true, longest: 102},
		{message: "Received: a\r\n b\r\nReceived: c\r\nX-Received: d\r\n\r\nReceived: e\r\n", hops: 2, longest: 13},
		{message: "received : a\r\nContent-Type: message/rfc822\r\n\r\nReceived: b\r\n\r\n", hops: 1, longest: 28},
	} {
		ix := ReadIndex([]byte(tt.message))
		if ix.HasBareCR != tt.bareCR || ix.HasBareLF != tt.bareLF || ix.Is8bit != tt.is8bit ||
			ix.HasNUL != tt.nul || ix.Hops != tt.hops || ix.LongestLine != tt.longest {
			t.Errorf("%.50q: %+v", tt.message, ix)
		}
	}
}

func TestReferences(t *testing.T) {
	ix := ReadIndex([]byte("References: <a@b>\r\n <c@d> junk <e@f>\r\nMessage-ID: <g@h>\r\n\r\n"))
	if want := []string{"a@b", "c@d", "e@f"}; !reflect.DeepEqual(ix.References, want) {
		t.Errorf("References = %q, want %q", ix.References, want)
	}
	many := "References: " + strings.Repeat("<x@y> ", 150) + "<last@y>\r\n\r\n"
	got := ReadIndex([]byte(many)).References
	if len(got) != maxReferences || got[maxReferences-1] != "last@y" {
		t.Errorf("%d references are kept", len(got))
	}
}

func TestGlobal(t *testing.T) {
	ix := ReadIndex([]byte("Content-Type: message/global\r\n\r\nSubject: gr\u00fc\u00dfe\r\n\r\nbody\r\n"))
	m := ix.Root.Message
	if m == nil || m.Envelope.Subject != "gr\u00fc\u00dfe" || m.Root.BodyLen != 6 {
		t.Errorf("the message in it is %+v", m)
	}
}

func TestLimits(t *testing.T) {
	var parts, deep, nested strings.Builder
	parts.WriteString("Content-Type: multipart/mixed; boundary=b\r\n\r\n")
	parts.WriteString(strings.Repeat("--b\r\n\r\nx\r\n", MaxParts+500))
	for i := range MaxDepth + 20 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		nested.WriteString("Content-Type: message/rfc822\r\n\r\n")
	}
	for name, message := range map[string]string{
		"parts":     parts.String(),
		"depth":     deep.String(),
		"messages":  nested.String(),
		"header":    "Subject: " + strings.Repeat("x", MaxHeaderBytes) + "\r\n\r\n",
		"fields":    strings.Repeat("to:\n", MaxHeaderBytes) + "\n",
		"addresses": "To: " + strings.Repeat("a,", MaxAddresses+5) + "\r\n\r\n",
		"folds":     "To: x\r\n" + strings.Repeat(" y,\r\n", MaxHeaderBytes/2) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			ix := ReadIndex([]byte(message))
			if !ix.Truncated {
				t.Error("Truncated is not set")
			}
			checkIndex(t, []byte(message), ix)
		})
	}
	// At the limits nothing is lost.
	exact := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\nx\r\n", MaxParts-1) + "--b--\r\n"
	if ix := ReadIndex([]byte(exact)); ix.Truncated || len(ix.Root.Children) != MaxParts-1 {
		t.Errorf("%d parts, truncated %t", len(ix.Root.Children), ix.Truncated)
	}
}

// TestIndexMemory checks that no message makes the indexer allocate more than
// a small multiple of its length.
func TestIndexMemory(t *testing.T) {
	const size = 4 << 20
	for name, unit := range map[string]string{
		"body":       "\n" + strings.Repeat("x", 77),
		"empty":      "\n",
		"no lines":   "x",
		"fields":     "to:\n",
		"addresses":  "to: a,b\n",
		"commas":     "to: ,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,\n",
		"groups":     "to: a:;,b:;,c:;,d:;,e:;,f:;,g:;\n",
		"params":     "content-type: text/plain;a=b;c=d;e=f;g=h;i=j\n",
		"split":      "content-type: text/plain;a*0=b;a*1=d;a*2=f\n",
		"parens":     "to: ((((((((((((((((((\n",
		"quotes":     "to: \"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"\n",
		"folds":      " \n",
		"parts":      "content-type:multipart/x;boundary=\n\n--\n",
		"delimiters": "--\n",
		"rfc822":     "content-type:message/rfc822\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			message := []byte("content-type:multipart/x;boundary=\nto:" + strings.Repeat(unit, size/len(unit)))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ix := ReadIndex(message)
			runtime.ReadMemStats(&after)
			if used := after.TotalAlloc - before.TotalAlloc; used > 8*size {
				t.Errorf("%d bytes allocated for %d", used, size)
			}
			checkIndex(t, message, ix)
		})
	}
}

func TestIndexEncoding(t *testing.T) {
	dec, err := cbor.DecOptions{MaxNestedLevels: MaxNesting}.DecMode()
	if err != nil {
		t.Fatal(err)
	}
	var deep strings.Builder
	for i := range MaxDepth + 20 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	all := append(everyMessage(t), namedMessage{"multiparts in multiparts", []byte(deep.String())},
		namedMessage{"messages in messages", []byte(strings.Repeat("Content-Type: message/rfc822\r\n\r\n", MaxDepth+20) + "To: a@b\r\n")})
	for _, m := range all {
		ix := ReadIndex(m.bytes)
		b, err := cbor.Marshal(ix)
		if err != nil {
			t.Fatal(err)
		}
		var got Index
		if err := dec.Unmarshal(b, &got); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		again, err := cbor.Marshal(&got)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s: the index does not survive encoding, %v", m.name, err)
		}
	}
}

func FuzzIndexer(f *testing.F) {
	for _, m := range brokenMessages {
		f.Add([]byte(m), uint8(3))
	}
	for i := range 50 {
		f.Add(randomMessage(uint64(i)), uint8(i))
	}
	f.Fuzz(func(t *testing.T, message []byte, size uint8) {
		ix := ReadIndex(message)
		checkIndex(t, message, ix)
		x := NewIndexer()
		for rest := message; len(rest) > 0; {
			n := min(len(rest), int(size)+1)
			_, _ = x.Write(rest[:n])
			rest = rest[n:]
		}
		if got := x.Finish(); !reflect.DeepEqual(got, ix) {
			t.Errorf("in pieces of %d:\ngot  %+v\nwant %+v", size+1, got, ix)
		}
	})
}

func BenchmarkIndexer(b *testing.B) {
	line := strings.Repeat("QUJD", 19) + "\r\n"
	attachment := "From: a@b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n" +
		"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		strings.Repeat(line, 1<<20/len(line)) + "--b--\r\n"
	small, err := os.ReadFile("testdata/mikel-mail/spec_fixtures_emails_plain_emails_raw_email_reply.eml")
	if err != nil {
		b.Fatal(err)
	}
	for name, message := range map[string][]byte{"attachment": []byte(attachment), "small": small} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(message)))
			b.ReportAllocs()
			for b.Loop() {
				x := NewIndexer()
				for rest := message; len(rest) > 0; {
					n := min(len(rest), 32<<10)
					_, _ = x.Write(rest[:n])
					rest = rest[n:]
				}
				x.Finish()
			}
		})
	}
}
