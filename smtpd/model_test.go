package smtpd

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// modelMax is the largest message in the fuzz tests, small so that it is met.
const modelMax = 1000

// modelResult is what a stream of octets must lead to.
type modelResult struct {
	messages []string // bodies kept
	open     bool     // what follows the end of this prefix is not predicted
}

var (
	endOfData  = regexp.MustCompile(`(?s)\r\n\.\r\n`)
	lonelyDot  = regexp.MustCompile(`(?s)\r\n\.\n|\r\n\.\r\r|[^\r]\n\.[\r\n]|\r\.[\r\n]`)
	stuffedDot = regexp.MustCompile(`(?s)\r\n\.`)
)

// modelData reads a body of DATA the slow and plain way: the whole of it at
// once, with patterns. ok is false if it never ends.
func modelData(stream []byte) (body []byte, bare bool, rest []byte, ok bool) {
	// The CRLF of the DATA command stands before the body; the dot before that
	// keeps a pattern from seeing the beginning of the text.
	text := append([]byte("\r\n"), stream...)
	end := endOfData.FindIndex(text)
	if end == nil {
		return nil, false, nil, false
	}
	raw := text[:end[0]+2]
	// The end itself is a dot between two proper line ends, so it cannot match.
	bare = lonelyDot.Match(text[:end[1]])
	// Every dot at the beginning of a line is one too many (RFC 5321 §4.5.2).
	return stuffedDot.ReplaceAll(raw, []byte("\r\n"))[2:], bare, text[end[1]:], true
}

// model is an independent reading of a whole conversation on the MX port. It
// shares the syntax of paths and parameters with the server and nothing else.
type model struct {
	in       []byte
	out      modelResult
	helo     bool
	mail     bool
	utf8     bool
	faulty   bool // the Backend will fail in the end
	rcpts    int
	chunks   []byte
	inBDAT   bool
	commands int
}

func (m *model) run() modelResult {
	for m.command() {
	}
	return m.out
}

func (m *model) reset() { m.mail, m.rcpts, m.inBDAT, m.chunks = false, 0, false, nil }

// command reads one command and says whether there may be more.
func (m *model) command() bool {
	i := bytes.IndexByte(m.in, '\n')
	if i < 1 || m.in[i-1] != '\r' {
		return false // nothing left, or a bare LF
	}
	line := string(m.in[:i-1])
	m.in = m.in[i+1:]
	upper := strings.ToUpper(line)
	if len(line)+2 > 2048 && !(len(line)+2 <= 12288 && regexp.MustCompile(`^AUTH([^A-Z]|$)`).MatchString(upper)) {
		return m.after(upper)
	}
	line = strings.TrimRight(line, " \t")
	upper = strings.ToUpper(line)
	if chunk := m.inBDAT && regexp.MustCompile(`^BDAT( |$)`).MatchString(upper); !chunk {
		if m.commands++; m.commands > 5000 {
			return false
		}
	}
	if !cleanLine([]byte(line)) {
		return m.after(upper)
	}
	verb, arg, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO", "HELO":
		if validHelo(arg) {
			m.reset()
			m.helo = true
		}
	case "RSET":
		if arg == "" {
			m.reset()
		}
	case "QUIT":
		return arg != ""
	case "GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS":
		return false
	case "MAIL":
		m.doMail(arg)
	case "RCPT":
		m.doRcpt(arg)
	case "DATA":
		return m.data(arg)
	case "BDAT":
		return m.bdat(arg)
	default:
		return m.after(upper) && (len(verb) < 2 || !strings.HasSuffix(verb, ":"))
	}
	return true
}

// after says whether there may be more after a line that was not understood.
func (m *model) after(upper string) bool {
	if regexp.MustCompile(`^DATA([^A-Z]|$)`).MatchString(upper) {
		// Whether the server hangs up depends on what has arrived already.
		m.out.open = len(m.in) > 0
		return false
	}
	return !regexp.MustCompile(`^BDAT([^A-Z]|$)`).MatchString(upper)
}

func (m *model) doMail(arg string) {
	rest, ok := cutPrefixFold([]byte(arg), "FROM:")
	if !m.helo || m.mail || !ok {
		return
	}
	p, rest, ok := parsePath(rest)
	params, refusal := parseMailParams(rest, false)
	if ok && refusal.code == 0 && (p.Raw == "" || p.Domain != "") && params.Size <= modelMax &&
		(params.SMTPUTF8 || isASCII(p.Raw)) && faultOf(p.Local) == nil {
		m.mail, m.utf8 = true, params.SMTPUTF8
		m.faulty = strings.HasPrefix(p.Local, "data-") || strings.HasPrefix(p.Local, "late-")
	}
}

func (m *model) doRcpt(arg string) {
	rest, ok := cutPrefixFold([]byte(arg), "TO:")
	if !m.mail || m.inBDAT || !ok {
		return
	}
	p, rest, ok := parsePath(rest)
	_, refusal := parseRcptParams(rest, m.utf8)
	if ok && refusal.code == 0 && (p.Domain != "" || strings.EqualFold(p.Local, "postmaster")) &&
		(m.utf8 || isASCII(p.Raw)) && faultOf(p.Local) == nil {
		m.rcpts++
	}
}

func (m *model) data(arg string) bool {
	if m.faulty && m.rcpts > 0 {
		m.out.open = true
		return false
	}
	if arg != "" || m.rcpts == 0 || m.inBDAT {
		// Whether the server hangs up depends on what has arrived already.
		m.out.open = len(m.in) > 0
		return false
	}
	body, bare, rest, ok := modelData(m.in)
	if !ok || bare {
		return false
	}
	m.in = rest
	if len(body) <= modelMax {
		m.out.messages = append(m.out.messages, string(body))
		m.commands = 0
	}
	m.reset()
	return true
}

func (m *model) bdat(arg string) bool {
	f := regexp.MustCompile(`(?i)^[ \t]*([0-9]{1,20})([ \t]+LAST)?[ \t]*$`).FindStringSubmatch(arg)
	if f == nil {
		return false
	}
	n, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil || n > int64(len(m.in)) {
		return false
	}
	chunk := m.in[:n]
	m.in = m.in[n:]
	if m.rcpts == 0 {
		m.reset()
		return true
	}
	if m.faulty {
		m.out.open = true
		return false
	}
	m.inBDAT = true
	m.chunks = append(m.chunks, chunk...)
	switch {
	case len(m.chunks) > modelMax:
		m.reset()
	case f[2] != "":
		m.out.messages = append(m.out.messages, string(m.chunks))
		m.commands = 0
		m.reset()
	}
	return true
}

// converse plays a stream, cut into packets, against a server, and returns what
// that kept and what it said.
func converse(t *testing.T, stream []byte, cuts uint64) (*memory, string) {
	m := &memory{}
	limits := DefaultLimits()
	limits.ErrorsSoft, limits.ErrorsHard, limits.Hops = -1, -1, -1
	s, err := New(Config{Hostname: "mx.example", Mode: MX, MaxMessageSize: modelMax, Limits: limits}, m)
	if err != nil {
		t.Fatal(err)
	}
	client, server := newSimPair("192.0.2.1:1", "192.0.2.25:25")
	for len(stream) > 0 {
		n := len(stream)
		if cuts != 0 {
			cuts = cuts*6364136223846793005 + 1442695040888963407
			n = min(n, 1+int(cuts>>33)%7*int(cuts>>40)%50)
		}
		client.Write(stream[:n])
		stream = stream[n:]
	}
	client.CloseWrite()
	ses := newSession(s, server, func() {})
	ses.run(t.Context())
	said, _ := io.ReadAll(client)
	if m.open != 0 {
		t.Errorf("%d transactions open", m.open)
	}
	return m, string(said)
}

func FuzzConversation(f *testing.F) {
	head := "EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
	for _, seed := range []string{
		"", head, head + "DATA\r\nx\r\n.\r\nQUIT\r\n", head + "BDAT 3\r\nabcBDAT 0 LAST\r\n" + head,
		head + "DATA\r\nx\n.\r\nRSET\r\n.\r\n", "EHLO x\r\nDATA\r\nx\r\n.\r\n", head + "BDAT 2000\r\n",
		head + "BDAT 3\r\nabcDATA\r\nRSET\r\nNOOP\r\n", head + "RSET\r\nBDAT 1 LAST\r\nxNOOP\n",
		"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nDATA\r\n..\r\n.\r\nVRFY a\r\nSubject: x\r\n",
		head + "BDAT 3\r\nabcQUIT now\r\nBDAT 3 LAST\r\nabc", head + "BDAT\t1 LAST\r\nx",
		strings.Repeat("NOOP\r\n", 4997) + head + "BDAT 1 LAST\r\nx", strings.Repeat("NOOP\r\n", 4996) + head + "BDAT 1 LAST\r\nx",
	} {
		f.Add([]byte(seed), uint64(0))
		f.Add([]byte(seed), uint64(7))
	}
	for _, c := range loadConversations(f) {
		p := &player{c: c}
		for _, s := range c.steps {
			switch p.s = s; s.verb {
			case ">":
				p.packet = append(append(p.packet, s.argument...), '\r', '\n')
			case ">>":
				p.packet = append(p.packet, p.quoted()...)
			}
		}
		if len(p.packet) < 5000 {
			f.Add(p.packet, uint64(3))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, cuts uint64) {
		if len(stream) > 1<<16 {
			return
		}
		m, said := converse(t, stream, cuts)
		want := (&model{in: stream}).run()
		var got []string
		for _, k := range m.all() {
			got = append(got, string(k.body))
		}
		if want.open && len(got) > len(want.messages) {
			got = got[:len(want.messages)]
		}
		if !slices.Equal(got, want.messages) {
			t.Errorf("kept %q, want %q", got, want.messages)
		}
		for l := range strings.Lines(said) {
			if !regexp.MustCompile(`^[2-5][0-9][0-9][ -][ -~]*\r\n$`).MatchString(l) {
				t.Errorf("malformed reply %q", l)
			}
		}
		if n := strings.Count(said, "Kept as "); n != len(m.all()) {
			t.Errorf("%d messages kept, %d acknowledged", len(m.all()), n)
		}
	})
}

func FuzzData(f *testing.F) {
	for _, seed := range []string{
		".\r\n", "a\r\n.\r\n", "..\r\n.\r\n", "a\n.\n\r\n.\r\n", "\r\n.\rY\r\n.\r\n", "\r.\r\n\r\n.\r\n", ".\n", "a\r\n.\r\r\n.\r\n",
		"\n\n.\n.\r\n.\r\n", "\r\r\n.\r\n", ".\r.\r\n.\r\n", "..\n.\r\n", ".\r\r\n.\r\n",
	} {
		f.Add([]byte(seed), uint64(0))
		f.Add([]byte(seed), uint64(1))
	}
	head := []byte("EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
	f.Fuzz(func(t *testing.T, stream []byte, cuts uint64) {
		body, bare, _, ok := modelData(stream)
		m, said := converse(t, append(slices.Clone(head), stream...), cuts)
		all := m.all()
		switch {
		case !ok && len(all) > 0:
			t.Errorf("kept %q of a body without an end", all[0].body)
		case ok && bare && (len(all) > 0 || !strings.Contains(said, "\r\n554 5.6.0 ")):
			t.Errorf("a bare line end passed: %q", said)
		case ok && !bare && len(body) <= modelMax && (len(all) == 0 || !bytes.Equal(all[0].body, body)):
			t.Errorf("%d kept, not %q; said %q", len(all), body, said)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, seed := range []string{"<a@b>", "<>", `<"a b@evil.com>"@b.c>`, "<@a,@b:c@d>", "<a@[IPv6:::1]> X=1", "<postmaster>"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !cleanLine(b) {
			return
		}
		p, rest, ok := parsePath(b)
		if !ok {
			return
		}
		// Without brackets it is as it stands; inside them spaces may stand beside it.
		whole := strings.TrimSuffix(string(b), string(rest))
		inner, open := strings.CutPrefix(whole, "<")
		inner, closed := strings.CutSuffix(inner, ">")
		if bare := whole == p.Raw && !strings.ContainsAny(whole, `<>"`); !bare && (!open || !closed || strings.Trim(inner, " ") != p.Raw) {
			t.Errorf("%q is %q and %q", b, p.Raw, rest)
		}
		if p.Raw == "" {
			return
		}
		again, _, ok := parsePath([]byte("<" + p.Mailbox + ">"))
		if !ok || again.Local != p.Local || again.Domain != p.Domain {
			t.Errorf("%+v reads back as %+v", p, again)
		}
		if strings.ContainsAny(p.Domain, "<>@\" \t") {
			t.Errorf("domain %q", p.Domain)
		}
	})
}
