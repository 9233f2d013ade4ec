package crash

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/crash/judge"
	"holdfast/e2e/outside"
	"holdfast/sim/residue"
)

const (
	senders  = 3
	perRun   = 60 // messages at most, so that a world stays small
	password = "correct horse"
	bob      = "bob@acme.test"
	carol    = "carol@acme.test" // who has no mailbox that anybody looks into
)

// hash is of the password, made as cheaply as a node accepts it.
const hash = "$argon2id$v=19$m=4096,t=1,p=1$Y3Jhc2ggdGVzdCBzYWx0IQ$qZftu7Id21wjvdt0f4yMxICK87B+g7klwvaP8U8vKqs"

// domains is the file that is applied. The primary is asked often, so that a change
// of its state is noticed while a node lives.
func (w *World) domains() string {
	days := 30
	if w.opt.Days {
		days = 1
	}
	return fmt.Sprintf(`[[domain]]
name = "acme.test"
tenant = "acme"
primary = ["smtp://%s?tls=none"]
continuity = "always"
shadow_days = %d
recipients = "listed"
  [domain.health]
  probe_every = "150ms"
  down_after = 2
  up_after = 1

[[user]]
address = %q
password_hash = %q

[[user]]
address = %q

[[user]]
address = %q
`, w.primary.Addr(), days, judge.User, hash, bob, carol)
}

// load lets everybody loose on the node, until the returned function is called,
// which waits for them.
func (w *World) load(ctx context.Context, p plan) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	run := w.run
	if !w.applied {
		wg.Go(func() { w.apply(ctx) })
		return func() { cancel(); wg.Wait() }
	}
	if p.quiet {
		wg.Go(func() { w.onlooker(ctx) })
		return func() { cancel(); wg.Wait() }
	}
	if w.opt.Days {
		w.dayLoad(ctx, &wg, p)
		return func() { cancel(); wg.Wait() }
	}
	left := make(chan struct{}, perRun)
	for range perRun {
		left <- struct{}{}
	}
	for range senders {
		wg.Go(func() { w.sender(ctx, run, left) })
	}
	seed := w.rng.Uint64()
	wg.Go(func() { w.user(ctx, rand.New(rand.NewPCG(seed, 2))) })
	return func() { cancel(); wg.Wait() }
}

// apply gives the node its domain, once it is ready. What was confirmed has to stay.
func (w *World) apply(ctx context.Context) {
	if err := w.node.WaitReady(ctx); err != nil {
		return
	}
	file := filepath.Join(w.opt.Dir, "domains.toml")
	if err := os.WriteFile(file, []byte(w.domains()), 0o600); err != nil {
		return
	}
	if out, err := w.node.Run(ctx, nil, "apply", file); err == nil && out.Code == 0 {
		w.applied = true
	}
}

// alive says whether it makes sense to go on.
func (w *World) alive(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-w.node.Ended():
		return false
	case <-time.After(3 * time.Millisecond):
		return true
	}
}

// sender sends messages, a few over each connection, until the node is dead.
func (w *World) sender(ctx context.Context, run int, left <-chan struct{}) {
	for w.alive(ctx) {
		conn, err := outside.DialSMTP(ctx, w.node.SMTP)
		if err != nil {
			continue
		}
		conn.Timeout = 50 * time.Second
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		for range 5 {
			select {
			case <-left:
			default:
				stop()
				conn.Close()
				return
			}
			if !w.send(conn, run) {
				break
			}
		}
		stop()
		conn.Close()
	}
}

var idOf = regexp.MustCompile(`Kept as ([0-9a-f]{32})`)

// send sends one message, each once whatever happens, and reports whether the
// connection can be used on.
func (w *World) send(conn *outside.Sender, run int) bool {
	w.mu.Lock()
	n := w.number
	w.number++
	w.mu.Unlock()
	m := message(w.opt.Seed, n, w.opt.Days)
	s := judge.Sent{N: n, Run: run, Began: w.clock(), To: recipients(n), SHA256: sum(m), Size: int64(len(m))}
	reply, err := conn.Send("sender@remote.example", s.To, m)
	switch code := outside.Code(err); {
	case err == nil:
		s.Answer = judge.Kept
		if id := idOf.FindStringSubmatch(reply); id != nil {
			s.ID = id[1]
		}
	case code/100 == 4:
		s.Answer, s.Reply = judge.Refused, err.Error()
	case code != 0:
		s.Answer, s.Reply = judge.Wrong, err.Error()
	default:
		s.Answer = judge.Lost
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Heard = w.tick()
	w.rec.Sent = append(w.rec.Sent, s)
	return err == nil
}

// recipients are alice and, sometimes, others.
func recipients(n int) []string {
	to := []string{judge.User}
	if n%3 == 0 {
		to = append(to, bob)
	}
	if n%7 == 0 {
		to = append(to, carol)
	}
	return to
}

// message makes the message of a number: mostly small, now and then large enough to
// be kept in parts; often, where days are short.
func message(seed uint64, n int, often bool) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)+100))
	size := r.IntN(3000)
	switch k := n % 20; {
	case k == 7, often && k%5 == 2:
		size = 300<<10 + r.IntN(200<<10)
	case k == 13:
		size = 40 << 10
	}
	noise := make([]byte, size)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "From: sender@remote.example\r\nTo: %s\r\nSubject: %s\r\nMessage-ID: <crash.%d.%d@remote.example>\r\nX-Number: %d\r\n\r\n", judge.User, residue.Mark(uint64(n)), seed, n, n)
	text := base64.StdEncoding.EncodeToString(noise)
	for len(text) > 76 {
		b.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	b.WriteString(text + "\r\n.\r\n..two dots\r\n")
	return []byte(b.String())
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// user is alice at her client: she looks, flags, removes and adds, one thing after
// the other.
func (w *World) user(ctx context.Context, r *rand.Rand) {
	for w.alive(ctx) {
		box, err := outside.DialIMAP(ctx, w.node.IMAP, judge.User, password)
		if err != nil {
			continue
		}
		box.Timeout = 50 * time.Second
		stop := context.AfterFunc(ctx, func() { box.Close() })
		for {
			v, err := w.look(box, "INBOX")
			if err != nil || !w.touch(box, r, v) {
				break
			}
			if _, err := w.look(box, "Archive"); err != nil || !w.add(box, r) {
				break
			}
			if !w.alive(ctx) {
				break
			}
		}
		stop()
		box.Close()
	}
}

// onlooker looks, and changes nothing.
func (w *World) onlooker(ctx context.Context) {
	for w.alive(ctx) {
		box, err := outside.DialIMAP(ctx, w.node.IMAP, judge.User, password)
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { box.Close() })
		for err == nil && w.alive(ctx) {
			_, err = w.look(box, "INBOX")
		}
		stop()
		box.Close()
	}
}

func (w *World) note(s judge.Step) {
	s.Ended, s.At = w.tick(), w.clock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rec.Steps = append(w.rec.Steps, s)
}

// outcome says what the user heard.
func outcome(s *judge.Step, err error) (goOn bool) {
	_, refused := errors.AsType[*outside.NoError](err)
	s.OK, s.No = err == nil, refused
	return err == nil || refused
}

// touch flags a message, and now and then removes one.
func (w *World) touch(box *outside.Mailbox, r *rand.Rand, v judge.Step) bool {
	uids := make([]uint32, 0, len(v.Messages))
	for uid := range v.Messages {
		uids = append(uids, uid)
	}
	if len(uids) == 0 {
		return true
	}
	slices.Sort(uids)
	if _, err := box.Do(`SELECT INBOX`); err != nil {
		return false
	}
	s := judge.Step{Kind: judge.Flag, Mailbox: "INBOX", Began: w.tick(), UID: uids[r.IntN(len(uids))]}
	s.Flags = []string{`\Flagged`, `\Seen`, `\Answered`, "$Later"}[r.IntN(4)]
	_, err := box.Do(fmt.Sprintf("UID STORE %d +FLAGS (%s)", s.UID, s.Flags))
	goOn := outcome(&s, err)
	w.note(s)
	if !goOn || r.IntN(4) > 0 {
		return goOn
	}
	uid := uids[r.IntN(len(uids))]
	d := judge.Step{Kind: judge.Flag, Mailbox: "INBOX", Began: w.tick(), UID: uid, Flags: `\Deleted`}
	_, err = box.Do(fmt.Sprintf(`UID STORE %d +FLAGS (\Deleted)`, uid))
	goOn = outcome(&d, err)
	w.note(d)
	if !d.OK {
		return goOn
	}
	e := judge.Step{Kind: judge.Expunge, Mailbox: "INBOX", Began: w.tick(), UID: uid}
	_, err = box.Do(fmt.Sprintf("UID EXPUNGE %d", uid))
	goOn = outcome(&e, err)
	w.note(e)
	return goOn
}

// add appends a message of the user's own.
func (w *World) add(box *outside.Mailbox, r *rand.Rand) bool {
	w.mu.Lock()
	n := fmt.Sprintf("own-%d-%d", w.run, len(w.rec.Steps))
	w.mu.Unlock()
	s := judge.Step{Kind: judge.Append, Mailbox: "Archive", Began: w.tick(), Number: n}
	text := fmt.Sprintf("From: %s\r\nSubject: own\r\nX-Number: %s\r\n\r\n%s\r\n", judge.User, n, strings.Repeat("words ", r.IntN(400)))
	goOn := outcome(&s, box.Append("Archive", `(\Seen)`, []byte(text)))
	w.note(s)
	return goOn
}

var (
	uidValidity = regexp.MustCompile(`\[UIDVALIDITY (\d+)\]`)
	uidNext     = regexp.MustCompile(`\[UIDNEXT (\d+)\]`)
	fetched     = regexp.MustCompile(`\bUID (\d+)`)
	flagged     = regexp.MustCompile(`FLAGS \(([^)]*)\)`)
	number      = regexp.MustCompile(`(?i)X-Number: (\S+)`)
)

// look reads a whole mailbox. A view that broke off is none.
func (w *World) look(box *outside.Mailbox, mailbox string) (judge.Step, error) {
	s := judge.Step{Kind: judge.View, Mailbox: mailbox, Began: w.tick(), Messages: map[uint32]judge.Message{}}
	lines, err := box.Do(fmt.Sprintf("SELECT %q", mailbox))
	if err != nil {
		return s, err
	}
	for _, l := range lines {
		if m := uidValidity.FindStringSubmatch(l.Text); m != nil {
			fmt.Sscan(m[1], &s.UIDValidity)
		}
		if m := uidNext.FindStringSubmatch(l.Text); m != nil {
			fmt.Sscan(m[1], &s.UIDNext)
		}
	}
	lines, err = box.Do("UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (X-Number)])")
	if err != nil {
		return s, err
	}
	for _, l := range lines {
		uid, flags := fetched.FindStringSubmatch(l.Text), flagged.FindStringSubmatch(l.Text)
		if !strings.Contains(l.Text, " FETCH (") || uid == nil || flags == nil || len(l.Literals) == 0 {
			continue
		}
		var n uint32
		fmt.Sscan(uid[1], &n)
		words := slices.DeleteFunc(strings.Fields(flags[1]), func(f string) bool { return f == `\Recent` })
		slices.Sort(words)
		m := judge.Message{Flags: strings.Join(words, " ")}
		if x := number.FindSubmatch(l.Literals[0]); x != nil {
			m.Number = string(x[1])
		}
		s.Messages[n] = m
		// What came between SELECT and FETCH is in the view too.
		s.UIDNext = max(s.UIDNext, n+1)
	}
	s.OK = true
	w.note(s)
	return s, nil
}
