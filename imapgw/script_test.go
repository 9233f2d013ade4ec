package imapgw_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"holdfast/continuity"
	"holdfast/imapgw"
)

var update = flag.Bool("update", false, "write what the server says into the scripts")

// TestScripts plays the conversations in testdata. A script is a txtar archive:
// each file whose name begins with "mail" is delivered to alice's INBOX, with CRLF,
// an hour after the one before, beginning on 2026-01-01 at noon; the file
// "session" is the conversation. Its lines are "A> what client A sends", "A< what
// it hears", in which "..." stands for anything, "A! the end of A's connection",
// and "! something the test does". Clients log in as alice; "a>" is a client that
// does not.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %d, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			playScript(t, file)
		})
	}
}

func playScript(t *testing.T, file string) {
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, func(c *imapgw.Config) { c.MaxMessageSize = 1 << 20 })
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	p := &player{t: t, f: f, clients: map[byte]*client{}, waiting: map[byte]bool{}}
	for i := range ar.Files {
		if strings.HasPrefix(ar.Files[i].Name, "mail") {
			f.alice.Deliver([]byte(strings.ReplaceAll(string(ar.Files[i].Data), "\n", "\r\n")), at)
			at = at.Add(time.Hour)
			continue
		}
		for _, line := range strings.Split(strings.TrimSuffix(string(ar.Files[i].Data), "\n"), "\n") {
			p.play(line)
		}
		p.settle(0)
		if *update {
			ar.Files[i].Data = []byte(strings.Join(p.out, "\n") + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

type player struct {
	t       *testing.T
	f       *fixture
	clients map[byte]*client
	waiting map[byte]bool // clients that have sent since what they hear was noted
	out     []string
}

func (p *player) client(who byte) *client {
	c := p.clients[who]
	if c == nil {
		if 'A' <= who && who <= 'Z' {
			c = p.f.login(p.t)
		} else {
			c = dial(p.t, p.f.addr)
			c.line()
		}
		p.clients[who] = c
	}
	return c
}

func (p *player) play(line string) {
	p.t.Helper()
	if len(line) < 2 || line[0] == '#' {
		p.settle(0)
		p.out = append(p.out, line)
		return
	}
	who, what, text := line[0], line[1], strings.TrimPrefix(line[2:], " ")
	switch {
	case who == '!':
		p.settle(0)
		p.do(strings.TrimSpace(line[1:]))
		for name := range p.clients {
			p.waiting[name] = true
		}
	case what == '>':
		p.settle(who)
		p.client(who).send(text + "\r\n")
		for name := range p.clients {
			p.waiting[name] = true
		}
	case what == '<':
		if *update {
			return
		}
		if got := p.client(who).line(); !matches(text, got) {
			p.t.Fatalf("client %c heard\n\t%s\nwant\n\t%s", who, got, text)
		}
	case what == '!':
		p.settle(0)
		if rest := p.client(who).eof(); rest != "" {
			p.t.Fatalf("client %c heard %q before the end", who, rest)
		}
	default:
		p.t.Fatalf("not a script line: %q", line)
	}
	p.out = append(p.out, line)
}

// settle notes, when scripts are updated, what the clients hear. A client that
// goes on sending, as in the middle of a literal, comes first.
func (p *player) settle(byte) {
	if !*update {
		return
	}
	for who := byte('A'); who <= 'z'; who++ {
		if !p.waiting[who] {
			continue
		}
		delete(p.waiting, who)
		c := p.clients[who]
		for {
			_ = c.c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			s, err := c.br.ReadString('\n')
			if err != nil {
				break
			}
			p.out = append(p.out, string(who)+"< "+strings.TrimSuffix(s, "\r\n"))
		}
	}
}

func (p *player) do(what string) {
	switch what {
	case "storage is down":
		p.f.backend.SetDown(true)
	case "storage is up":
		p.f.backend.SetDown(false)
	case "reading fails":
		p.f.alice.Break(errors.New("disk on fire"))
	case "mail has expired":
		p.f.alice.Break(continuity.ErrExpired)
	case "reading works":
		p.f.alice.Break(nil)
	case "the primary is up":
		p.f.alice.Refuse("Your mail server is up, please use it")
	case "alice is evicted":
		p.f.alice.Evict()
	case "mail arrives":
		p.f.alice.Deliver([]byte("Subject: news\r\n\r\nIt is news.\r\n"), time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC))
	default:
		p.t.Fatalf("the test does not know how to do %q", what)
	}
}

// matches compares a line with a pattern in which "..." stands for anything.
func matches(pattern, line string) bool {
	parts := strings.Split(pattern, "...")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`^` + strings.Join(parts, `.*`) + `$`).MatchString(line)
}
