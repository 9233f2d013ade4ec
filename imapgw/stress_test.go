package imapgw_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// model is what a careful client believes of the selected mailbox, and what it
// holds against the server.
type model struct {
	t    *testing.T
	who  string
	c    *client
	uids []string // by sequence number - 1; "" when not known
	// flags that were announced.
	known map[string]bool
	// mayExpunge: the running command allows EXPUNGE responses.
	mayExpunge bool
}

var (
	fetchLine = regexp.MustCompile(`^\* (\d+) FETCH \((.*)\)$`)
	uidItem   = regexp.MustCompile(`\bUID (\d+)`)
	flagsItem = regexp.MustCompile(`\bFLAGS \(([^)]*)\)`)
)

func (m *model) do(command string) string {
	m.c.send("x " + command + "\r\n")
	verb, _, _ := strings.Cut(command, " ")
	m.mayExpunge = verb != "FETCH" && verb != "STORE" && verb != "SEARCH" // RFC 9051 §7.5.1
	for {
		l := m.c.line()
		if strings.HasPrefix(l, "x ") {
			return l
		}
		m.hear(command, l)
	}
}

func (m *model) hear(command, l string) {
	bad := func(why string) {
		m.t.Errorf("%s: %s during %q: %s (of %d messages)", m.who, l, command, why, len(m.uids))
	}
	if g := fetchLine.FindStringSubmatch(l); g != nil {
		seq, _ := strconv.Atoi(g[1])
		if seq < 1 || seq > len(m.uids) {
			bad("no such message")
			return
		}
		if u := uidItem.FindStringSubmatch(g[2]); u != nil {
			if have := m.uids[seq-1]; have != "" && have != u[1] {
				bad("the message had UID " + have)
			}
			m.uids[seq-1] = u[1]
		}
		if f := flagsItem.FindStringSubmatch(g[2]); f != nil {
			for _, flag := range strings.Fields(f[1]) {
				if !m.known[flag] {
					bad("flag was not announced")
				}
			}
		}
		return
	}
	f := strings.Fields(l)
	switch {
	case len(f) == 3 && f[2] == "EXISTS":
		n, _ := strconv.Atoi(f[1])
		if n < len(m.uids) {
			bad("EXISTS decreases")
		}
		m.uids = append(m.uids, make([]string, max(0, n-len(m.uids)))...)
	case len(f) == 3 && f[2] == "EXPUNGE":
		n, _ := strconv.Atoi(f[1])
		if n < 1 || n > len(m.uids) {
			bad("no such message")
			return
		}
		if !m.mayExpunge {
			bad("not allowed now")
		}
		m.uids = slices.Delete(m.uids, n-1, n)
	case len(f) > 1 && f[1] == "FLAGS":
		m.known = map[string]bool{}
		for _, flag := range strings.Fields(strings.Trim(strings.TrimPrefix(l, "* FLAGS "), "()")) {
			m.known[flag] = true
		}
	case len(f) > 1 && f[1] == "SEARCH":
		for _, s := range f[2:] {
			if n, _ := strconv.Atoi(s); !strings.HasPrefix(command, "UID") && n > len(m.uids) {
				bad("no such message")
			}
		}
	case len(f) > 1 && f[1] == "BYE":
		bad("the session ends")
	}
}

func (m *model) step(r *rand.Rand) {
	n := max(len(m.uids), 1)
	seq := 1 + r.IntN(n)
	set := fmt.Sprintf("%d:%d", seq, min(n, seq+r.IntN(4)))
	flag := []string{`\Seen`, `\Flagged`, `\Deleted`, "Work", "$Junk", "k" + strconv.Itoa(r.IntN(12))}[r.IntN(6)]
	op := []string{"+FLAGS", "-FLAGS", "FLAGS", "+FLAGS.SILENT"}[r.IntN(4)]
	var cmd string
	switch r.IntN(13) {
	case 0:
		cmd = "NOOP"
	case 1:
		cmd = "FETCH " + set + " (UID FLAGS)"
	case 2:
		cmd = "UID FETCH 1:* (FLAGS)"
	case 3, 4:
		cmd = fmt.Sprintf("STORE %s %s (%s)", set, op, flag)
	case 5:
		cmd = fmt.Sprintf(`UID STORE %d %s (%s)`, 1+r.IntN(200), op, flag)
	case 6:
		cmd = "SEARCH OR DELETED UNSEEN"
	case 7:
		cmd = "UID SEARCH UNDELETED"
	case 8:
		cmd = "EXPUNGE"
	case 9:
		cmd = "COPY " + set + " INBOX"
	case 10:
		cmd = "MOVE " + strconv.Itoa(seq) + " Trash"
	case 11:
		m.c.send("x APPEND INBOX {14+}\r\nSubject: x\r\n\r\n\r\n")
		m.mayExpunge = true
		for {
			l := m.c.line()
			if strings.HasPrefix(l, "x ") {
				return
			}
			m.hear("APPEND", l)
		}
	case 12:
		cmd = "UID FETCH " + strconv.Itoa(1+r.IntN(200)) + ":* (UID BODY.PEEK[TEXT]<0.0> FLAGS)"
	}
	if len(m.uids) == 0 && (strings.Contains(cmd, set) || strings.HasPrefix(cmd, "MOVE")) {
		cmd = "NOOP"
	}
	answer := m.do(cmd)
	if !strings.HasPrefix(answer, "x OK") && !strings.HasPrefix(answer, "x NO [EXPUNGEISSUED]") {
		m.t.Errorf("%s: %s: %s", m.who, cmd, answer)
	}
}

// TestStress has several sessions store, expunge, append, copy and move in one
// mailbox. What each hears must make sense at every moment, and in the end all
// must agree with the mailbox.
func TestStress(t *testing.T) {
	const sessions, steps = 6, 250
	f := start(t, nil)
	manyInInbox(f.alice, 40)
	models := make([]*model, sessions)
	var wg sync.WaitGroup
	for i := range sessions {
		m := &model{t: t, who: fmt.Sprintf("session %d", i), c: f.login(t), known: map[string]bool{}}
		models[i] = m
		m.do("SELECT INBOX")
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			for range steps {
				if t.Failed() {
					return
				}
				m.step(r)
			}
		})
	}
	wg.Wait()
	var want []string
	for _, u := range f.alice.UIDs("INBOX") {
		want = append(want, strconv.Itoa(int(u)))
	}
	for _, m := range models {
		m.do("NOOP")
		m.do("UID FETCH 1:* (FLAGS)")
		if !slices.Equal(m.uids, want) {
			t.Errorf("%s believes in\n%v\nbut there are\n%v", m.who, m.uids, want)
		}
	}
}

// TestIdleIsImmediate: what one session does another hears in IDLE although
// nothing else happens.
func TestIdleIsImmediate(t *testing.T) {
	f := start(t, nil)
	manyInInbox(f.alice, 1)
	idle, busy := f.login(t), f.login(t)
	idle.ok("SELECT INBOX")
	busy.ok("SELECT INBOX")
	idle.send("x IDLE\r\n")
	idle.line()
	for i := range 200 {
		op := "+FLAGS"
		if i%2 == 1 {
			op = "-FLAGS"
		}
		began := time.Now()
		busy.ok("STORE 1 " + op + ` (\Flagged)`)
		if l := idle.line(); !strings.HasPrefix(l, "* 1 FETCH (UID 1 FLAGS (") {
			t.Fatal(l)
		}
		if took := time.Since(began); took > patience/2 {
			t.Fatalf("heard after %v", took)
		}
	}
	idle.send("DONE\r\n")
	if l := idle.line(); !strings.HasPrefix(l, "x OK") {
		t.Fatal(l)
	}
}
