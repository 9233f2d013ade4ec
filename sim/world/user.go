package world

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/e2e/outside"
	"holdfast/internal/turn"
	"holdfast/sim/check"
)

// user reads and files mail over IMAP, and submits some.
type user struct {
	inhabitant
	address string
	home    string // the node of the last session
	acts    []check.UserAct
	said    []check.Transaction
}

// boxes are the mailboxes that users use; the last is made and deleted.
var boxes = []string{"INBOX", "Sent", "Archive", boxWords}

func newUser(w *World, address string) *user {
	u := &user{inhabitant: w.inhabitant("user-" + strings.ReplaceAll(address, "@", "-at-")), address: address}
	u.home = u.node()
	return u
}

func (u *user) run(ctx context.Context) {
	for range u.world.cfg.Size.Visits {
		if !u.pause(ctx, u.between(time.Second, 90*time.Second)) || !u.misbehaves() {
			return
		}
		if u.chance(25) {
			u.submit(ctx)
			continue
		}
		if u.chance(25) {
			u.home = u.node()
		}
		u.visit(ctx)
	}
}

// probe is a visit in calm weather.
func (u *user) probe(ctx context.Context) {
	u.home = u.node()
	u.visit(ctx)
	u.idle(ctx)
	u.pause(ctx, u.between(time.Second, 2*time.Second))
}

// idle waits in IDLE for a message that is sent meanwhile (RFC 2177).
func (u *user) idle(ctx context.Context) {
	v := u.open(ctx, u.home, nil)
	if v == nil {
		return // not admitted
	}
	defer v.close()
	if !v.look("INBOX") {
		return
	}
	c := &courier{inhabitant: &u.inhabitant, said: &u.said, serve: func(n string) string { return n + ":25" }}
	began := time.Now()
	err := v.m.Idle(20*time.Second, func() {
		c.deliver(ctx, u.newLetter(senderWords+"@"+far, []string{u.address}, 400))
		began = time.Now()
	}, func(l outside.Line) bool { return strings.HasSuffix(l.Text, " EXISTS") })
	v.note(check.UserAct{Act: check.Idled, Mailbox: "INBOX"}, began, err)
}

// final looks at everything at every node.
func (u *user) final(ctx context.Context) {
	for _, n := range u.world.cfg.Nodes {
		v := u.open(ctx, n, nil)
		if v == nil {
			continue // not admitted
		}
		v.last = true
		for _, box := range append(slices.Clone(boxes), "Trash") {
			v.look(box)
		}
		v.close()
	}
}

func (u *user) submit(ctx context.Context) {
	to := []string{pick(&u.inhabitant, residents)}
	if u.chance(50) {
		to = append(to, fmt.Sprintf("%s-%d@%s", senderWords, u.rng.IntN(3), far))
	}
	c := &courier{
		inhabitant: &u.inhabitant, said: &u.said, serve: func(n string) string { return n + ":587" }, login: login{u.address},
	}
	c.deliver(ctx, u.newLetter(u.address, to, max(u.size(), 300)))
}

// visit is one session of some commands.
func (u *user) visit(ctx context.Context) {
	var cut *cutter
	if u.misbehaves() && u.chance(40) {
		cut = &cutter{}
		if u.chance(50) {
			cut.out = 1 + u.rng.IntN(400)
		} else {
			cut.in = 1 + u.rng.IntN(6000)
		}
	}
	v := u.open(ctx, u.home, cut)
	if v == nil {
		return
	}
	defer v.close()
	box := pick(&u.inhabitant, boxes)
	if u.chance(50) {
		box = "INBOX"
	}
	if !v.look(box) && box == boxWords && !v.broken {
		v.create(box)
		v.look(box)
	}
	for range 1 + u.rng.IntN(6) {
		if v.broken || !v.something() {
			return
		}
	}
	if !v.broken {
		v.look(v.box)
	}
}

// visit is a session.
type visit struct {
	*user
	ctx      context.Context
	node     string
	m        *outside.Mailbox
	box      string // selected
	validity uint32
	uids     []uint32
	broken   bool
	last     bool
	stop     func() bool
}

func (u *user) open(ctx context.Context, node string, cut *cutter) *visit {
	conn, err := u.net.Dial(ctx, "tcp", node+":143")
	if err != nil {
		return nil
	}
	if cut != nil {
		cut.Conn = conn
		conn = cut
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	m, err := outside.OpenIMAP(conn, u.address, password, 2*time.Minute+time.Duration(u.rng.IntN(1e9)))
	turn.Take(ctx, "logged in")
	if err != nil {
		stop()
		return nil
	}
	return &visit{user: u, ctx: ctx, node: node, m: m, stop: stop}
}

func (v *visit) close() {
	v.stop()
	v.m.Close()
}

// note writes an act down. began is when the command left.
func (v *visit) note(a check.UserAct, began time.Time, err error) bool {
	a.User, a.Node, a.At, a.Final = v.address, v.node, v.world.cfg.Order.Now(), v.last
	a.Waited, a.Calm = time.Since(began), v.world.probing.Load()
	switch err.(type) {
	case nil:
		a.Answer = check.AnswerOK
	case *outside.NoError:
		a.Answer = check.AnswerNo
	default:
		v.broken = true
	}
	if a.Act == check.Looked && a.Mailbox == boxWords && a.Answer == check.AnswerNo {
		return false // it need not exist
	}
	v.acts = append(v.acts, a)
	return a.Answer == check.AnswerOK
}

func (v *visit) look(box string) bool {
	began := time.Now()
	seen, err := v.m.Look(box, true)
	a := check.UserAct{Act: check.Looked, Mailbox: box, Validity: seen.UIDValidity, UIDNext: seen.UIDNext}
	v.box, v.validity, v.uids = box, seen.UIDValidity, slices.Sorted(maps.Keys(seen.Messages))
	for _, uid := range v.uids {
		m := seen.Messages[uid]
		a.Seen = append(a.Seen, check.SeenMessage{UID: uid, Flags: strings.Fields(m.Flags), Letter: tokenOf(m.Body), Body: m.Body})
	}
	return v.note(a, began, err)
}

var token = regexp.MustCompile(`letter-[0-9a-f]{16}`)

// tokenOf finds a letter's token in the header: a bounce quotes the letter below.
func tokenOf(body []byte) string {
	header, _, _ := bytes.Cut(body, []byte("\r\n\r\n"))
	return string(token.Find(header))
}

func (v *visit) create(box string) {
	began := time.Now()
	_, err := v.m.Do(fmt.Sprintf("CREATE %q", box))
	v.note(check.UserAct{Act: check.Created, Mailbox: box}, began, err)
}

// something is one command. It reports whether the session goes on.
func (v *visit) something() bool {
	turn.Take(v.ctx, "what next")
	switch p := v.rng.IntN(100); {
	case p < 20:
		return v.append()
	case p < 25 && v.box == boxWords:
		began := time.Now()
		_, err := v.m.Do(fmt.Sprintf("DELETE %q", v.box))
		v.note(check.UserAct{Act: check.Deleted, Mailbox: v.box}, began, err)
		return false
	case len(v.uids) == 0:
		return true
	case p < 60:
		return v.store(pick(&v.inhabitant, []string{`\Seen`, `\Flagged`, `\Answered`, flagWord, `\Deleted`}), v.chance(70), v.some())
	case p < 75:
		uids := v.some()
		return v.store(`\Deleted`, true, uids) && v.expunge(uids)
	case p < 90:
		return v.copy(check.Moved, "MOVE", v.some())
	default:
		return v.copy(check.Copied, "COPY", v.some())
	}
}

// some are a few of the messages that were seen.
func (v *visit) some() []uint32 {
	uids := slices.Clone(v.uids)
	v.rng.Shuffle(len(uids), func(a, b int) { uids[a], uids[b] = uids[b], uids[a] })
	uids = uids[:1+v.rng.IntN(min(3, len(uids)))]
	slices.Sort(uids)
	return uids
}

func set(uids []uint32) string {
	var out []string
	for _, u := range uids {
		out = append(out, strconv.FormatUint(uint64(u), 10))
	}
	return strings.Join(out, ",")
}

func (v *visit) store(flag string, on bool, uids []uint32) bool {
	sign := "-"
	if on {
		sign = "+"
	}
	began := time.Now()
	_, err := v.m.Do(fmt.Sprintf("UID STORE %s %sFLAGS (%s)", set(uids), sign, flag))
	return v.note(check.UserAct{Act: check.Stored, Mailbox: v.box, Validity: v.validity, UIDs: uids, Flag: flag, Set: on}, began, err)
}

func (v *visit) expunge(uids []uint32) bool {
	began := time.Now()
	_, err := v.m.Do("UID EXPUNGE " + set(uids))
	return v.note(check.UserAct{Act: check.Expunged, Mailbox: v.box, Validity: v.validity, UIDs: uids}, began, err)
}

var (
	copyUID   = regexp.MustCompile(`\[COPYUID (\d+) ([0-9:,]+) ([0-9:,]+)\]`)
	appendUID = regexp.MustCompile(`\[APPENDUID (\d+) (\d+)\]`)
)

func (v *visit) copy(act check.Act, verb string, uids []uint32) bool {
	to := pick(&v.inhabitant, []string{"Archive", "INBOX", "Trash"})
	a := check.UserAct{Act: act, Mailbox: v.box, Validity: v.validity, UIDs: uids, To: to, ToUIDs: map[uint32]uint32{}}
	if to == v.box {
		return true
	}
	began := time.Now()
	lines, err := v.m.Do(fmt.Sprintf("UID %s %s %q", verb, set(uids), to))
	for _, l := range lines { // RFC 6851 §4.3: MOVE tells it before its end
		if m := copyUID.FindStringSubmatch(l.Text); m != nil {
			a.ToValid = number(m[1])
			from, dest := expand(m[2]), expand(m[3])
			for i := range min(len(from), len(dest)) {
				a.ToUIDs[from[i]] = dest[i]
			}
		}
	}
	return v.note(a, began, err)
}

func (v *visit) append() bool {
	l := v.newLetter(v.address, []string{v.address}, max(v.size(), 300))
	began := time.Now()
	lines, err := v.m.AppendUID(v.box, "()", l.body)
	a := check.UserAct{Act: check.Appended, Mailbox: v.box, Letter: l.token}
	for _, line := range lines {
		if m := appendUID.FindStringSubmatch(line.Text); m != nil {
			a.Validity, a.NewUID = number(m[1]), number(m[2])
		}
	}
	return v.note(a, began, err)
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0 // no UID
	}
	return uint32(n)
}

// expand turns a set of UIDs into the UIDs in its order.
func expand(s string) (out []uint32) {
	for part := range strings.SplitSeq(s, ",") {
		first, last, ok := strings.Cut(part, ":")
		if !ok {
			last = first
		}
		for u := number(first); u <= number(last) && u != 0; u++ {
			out = append(out, u)
		}
	}
	return out
}

// cutter cuts a connection after a number of bytes, if that is not zero.
type cutter struct {
	net.Conn
	out, in int
}

// Write implements net.Conn.
func (c *cutter) Write(p []byte) (int, error) {
	if c.out == 0 || len(p) < c.out {
		if c.out != 0 {
			c.out -= len(p)
		}
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(p[:c.out])
	c.Conn.Close()
	if err == nil {
		err = errCut
	}
	return n, err
}

// Read implements net.Conn.
func (c *cutter) Read(p []byte) (int, error) {
	if c.in == 0 {
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p[:min(len(p), c.in)])
	if c.in -= n; c.in <= 0 && err == nil {
		c.Conn.Close()
		err = errCut
		c.in = 1
	}
	return n, err
}
