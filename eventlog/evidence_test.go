package eventlog

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// proven is a log with a message in it, and the evidence of that.
type proven struct {
	*fixture
	key    ed25519.PublicKey
	ref    event.Ref
	body   []byte
	bundle []byte
}

func (f *fixture) prove(t testing.TB, body []byte) proven {
	t.Helper()
	ctx := context.Background()
	ev, err := f.tryMessage(ctx, body)
	if err != nil {
		t.Fatal(err)
	}
	ev.Fact.(*event.MessageAccepted).At = f.Millis()
	pos, err := f.Append(ctx, ev)
	if err != nil {
		t.Fatal(err)
	}
	key, err := f.opt.Keys.InstallationKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := proven{fixture: f, key: key, ref: event.Ref{Position: pos, ID: ev.ID}, body: body}
	p.bundle = p.again(t)
	return p
}

// again makes the evidence anew.
func (p proven) again(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := p.Prove(context.Background(), p.ref, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func checkBundle(b []byte, key ed25519.PublicKey) (*Evidence, []byte, error) {
	e, r, err := CheckEvidence(bytes.NewReader(b), int64(len(b)), key)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(r)
	return e, body, err
}

// holds fails unless a bundle proves its message.
func (p proven) holds(t *testing.T, bundle []byte) *Evidence {
	t.Helper()
	e, body, err := checkBundle(bundle, p.key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(body, p.body) || e.Ref != p.ref || e.Tenant != p.tenant || e.Log != p.ID() || e.Size != int64(len(p.body)) {
		t.Fatalf("it proves %+v and %d bytes", e, len(body))
	}
	if m := e.Fact.(*event.MessageAccepted); m.Meta.From != "a@b" || time.Since(e.Received()) > time.Minute {
		t.Errorf("the event is %+v of %v", m, e.Received())
	}
	return e
}

func newProver(t testing.TB) *fixture {
	t.Helper()
	opt := Options{
		Bucket: mem.New(), URL: "mem:", Keys: crypto.MemoryRoot(event.DayOf(time.Now())), MayCreate: true,
		Logger: slog.New(slog.DiscardHandler), Partitions: 1,
	}
	l, err := Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	tenant, err := opt.Keys.TenantID(context.Background(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.EnsureTenant(context.Background(), tenant); err != nil {
		t.Fatal(err)
	}
	return &fixture{Log: l, opt: opt, tenant: tenant, day: event.DayOf(l.Now()) + 30}
}

func TestEvidenceHolds(t *testing.T) {
	f := newProver(t)
	for _, size := range []int{0, 1, 511, 512, 100_000, 300 << 10, 5 << 20} {
		p := f.prove(t, randomBytes(size))
		p.holds(t, p.bundle)
		if more := len(p.bundle) - size; more > 10<<10 {
			t.Errorf("%d bytes more than the message's %d", more, size)
		}
	}
}

// Anybody can take a bundle apart: it is an ordinary archive.
func TestEvidenceIsAnOrdinaryArchive(t *testing.T) {
	p := newProver(t).prove(t, []byte("Subject: x\r\n\r\ntext\r\n"))
	tr := tar.NewReader(bytes.NewReader(p.bundle))
	var names []string
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if names = append(names, h.Name); h.Name == fileMessage && !bytes.Equal(b, p.body) {
			t.Errorf("the message is %q", b)
		}
	}
	if got := strings.Join(names, " "); got != "evidence.txt checkpoint.txt path header keys state meta message.eml" {
		t.Errorf("its files are %s", got)
	}
}

// Evidence of one place keeps holding while the log grows, also from the same
// bytes; and a checkpoint that is there already is used.
func TestEvidenceOfAnOldMessage(t *testing.T) {
	f := newProver(t)
	f.grow(t, 40)
	p := f.prove(t, []byte("old"))
	f.grow(t, 3000)
	if _, err := f.Checkpoint(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	later := p.again(t)
	if e := p.holds(t, later); e.Checkpoint.Seq != 41 {
		t.Errorf("proved under %v, though there was an earlier one", e.Checkpoint)
	}
	p.holds(t, p.bundle)
	q := f.prove(t, []byte("new"))
	if err := f.opt.Bucket.Delete(context.Background(), checkpointKey(0, 41)); err != nil {
		t.Fatal(err)
	}
	// Under the one of 3041, whose tree begins behind the message, it cannot be.
	if e := p.holds(t, p.again(t)); e.Checkpoint.From != 40 {
		t.Errorf("proved under %v after %d", e.Checkpoint, e.Checkpoint.From)
	}
	q.holds(t, q.bundle)
}

// A copy that is opened for reading only proves as well, and is not written to.
func TestEvidenceFromACopy(t *testing.T) {
	ctx := context.Background()
	f := newProver(t)
	p := f.prove(t, []byte("x"))
	for _, key := range stored(t, f.opt.Bucket, "checkpoint/") {
		if err := f.opt.Bucket.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	opt := f.opt
	opt.URL, opt.MayCreate = "elsewhere:", false
	l, err := Open(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(ctx)
	p.Log = l
	p.holds(t, p.again(t))
	if got := stored(t, f.opt.Bucket, "checkpoint/"); len(got) > 0 {
		t.Errorf("the copy has %v now", got)
	}
}

// No bit of a bundle can be changed, nothing taken away, nothing added.
func TestAnyChangeOfEvidenceShows(t *testing.T) {
	p := newProver(t).prove(t, []byte("Subject: x\r\n\r\ntext\r\n"))
	refused := func(what string, at int, b []byte) {
		t.Helper()
		if _, _, err := checkBundle(b, p.key); !errors.Is(err, ErrEvidence) {
			t.Errorf("%s at %d: %v", what, at, err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for at := range p.bundle {
		bad := bytes.Clone(p.bundle)
		bad[at] ^= 1 << rng.IntN(8)
		refused("a flipped bit", at, bad)
	}
	for at := 0; at < len(p.bundle); at += 1 + at%7 {
		refused("cut", at, p.bundle[:at])
	}
	for _, more := range []int{1, 512, 1024} {
		refused("more", more, append(bytes.Clone(p.bundle), make([]byte, more)...))
	}
}

// unpack takes a bundle apart, and pack puts one together, as a forger would.
func unpack(t testing.TB, b []byte) (names []string, files map[string][]byte) {
	t.Helper()
	files = map[string][]byte{}
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names, files
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func pack(t testing.TB, names []string, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, n := range names {
		if err := writeEntry(&b, n, int64(len(files[n])), bytes.NewReader(files[n])); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(make([]byte, 2*tarBlock))
	return b.Bytes()
}

// Nothing of one bundle can stand in for that of another, of the same
// installation or of another one.
func TestEvidenceCannotBeMixed(t *testing.T) {
	f, g := newProver(t), newProver(t)
	p, q, o := f.prove(t, []byte("one")), f.prove(t, []byte("two")), g.prove(t, []byte("one"))
	names, mine := unpack(t, p.bundle)
	if !bytes.Equal(pack(t, names, mine), p.bundle) {
		t.Fatal("it does not go together again")
	}
	for _, other := range []proven{q, o} {
		_, theirs := unpack(t, other.bundle)
		// Every choice of files of the two but the two as they are.
		for choice := 1; choice < 1<<len(names)-1; choice++ {
			mixed := map[string][]byte{}
			for i, n := range names {
				if mixed[n] = mine[n]; choice>>i&1 == 1 {
					mixed[n] = theirs[n]
				}
			}
			b := pack(t, names, mixed)
			if bytes.Equal(b, p.bundle) || bytes.Equal(b, other.bundle) {
				continue // the two have this in common
			}
			if e, _, err := checkBundle(b, p.key); !errors.Is(err, ErrEvidence) {
				t.Errorf("mixed %08b: %+v, %v", choice, e, err)
			}
		}
		if _, _, err := checkBundle(other.bundle, p.key); (err == nil) != (other.key.Equal(p.key)) {
			t.Errorf("another's bundle under this key: %v", err)
		}
	}
	for i := range names { // left out, or twice
		less := append(append([]string{}, names[:i]...), names[i+1:]...)
		twice := append(append([]string{}, names[:i+1]...), names[i:]...)
		for _, ns := range [][]string{less, twice} {
			if _, _, err := checkBundle(pack(t, ns, mine), p.key); !errors.Is(err, ErrEvidence) {
				t.Errorf("files %v: %v", ns, err)
			}
		}
	}
}

// A certified node that signs a segment which never came into the log proves
// nothing: that is what the checkpoint is for.
func TestEvidenceNeedsTheCheckpoint(t *testing.T) {
	f := newProver(t)
	p := f.prove(t, []byte("one"))
	ev, err := f.tryMessage(context.Background(), []byte("never sent"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := f.seal(context.Background(), ev)
	if err != nil {
		t.Fatal(err)
	}
	lost := f.partitions[0].buildNext([]*item{{events: []sealedEvent{sealed}}}) // it loses its race
	f.grow(t, 2)
	names, files := unpack(t, p.again(t))
	files[fileHeader] = lost.image.front[:lost.front]
	files[fileText] = bytes.ReplaceAll(files[fileText], []byte(p.ref.ID.String()), []byte(ev.ID.String()))
	if _, _, err := checkBundle(pack(t, names, files), p.key); !errors.Is(err, ErrEvidence) {
		t.Errorf("a segment that lost its race is proved: %v", err)
	}
}

func TestWhatCannotBeProved(t *testing.T) {
	ctx := context.Background()
	f := newProver(t)
	p := f.prove(t, []byte("x"))
	other := p.ref
	other.ID = event.NewID()
	if _, err := f.Prove(ctx, other, io.Discard); !errors.Is(err, ErrDamaged) {
		t.Errorf("a message that is not there: %v", err)
	}
	pos, err := f.Append(ctx, event.Event{ID: other.ID, Tenant: f.tenant, Fact: &event.MailboxCreated{Name: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Prove(ctx, event.Ref{Position: pos, ID: other.ID}, io.Discard); !errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("no message: %v", err)
	}
	if err := f.opt.Keys.(*crypto.Root).AdvanceTo(f.day + 1); err != nil {
		t.Fatal(err)
	}
	f.Forget(f.day + 1)
	if _, err := f.Prove(ctx, p.ref, io.Discard); !errors.Is(err, crypto.ErrExpired) {
		t.Errorf("expired mail: %v", err)
	}
	p.holds(t, p.bundle) // what was proved before remains
}

// golden is a bundle that an early version made, and the key it is checked with.
func golden(t testing.TB) (bundle []byte, key ed25519.PublicKey) {
	t.Helper()
	bundle, err := os.ReadFile("testdata/evidence.tar")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/evidence.pub")
	if err != nil {
		t.Fatal(err)
	}
	if key, err = ParseKey(string(text)); err != nil {
		t.Fatal(err)
	}
	return bundle, key
}

// Evidence outlives the version that made it.
func TestEvidenceOfAnEarlyVersion(t *testing.T) {
	bundle, key := golden(t)
	e, body, err := checkBundle(bundle, key)
	if err != nil {
		t.Fatal(err)
	}
	if want := "Subject: evidence\r\n\r\n" + strings.Repeat("text\r\n", 20); string(body) != want || e.Ref.Position.Seq != 3 {
		t.Errorf("it proves %q at %v", body, e.Ref.Position)
	}
}

// FuzzEvidence: no other bytes than those that a prover wrote are evidence. The
// bundle is a fixed one: what is made anew has other keys in every process.
func FuzzEvidence(f *testing.F) {
	bundle, key := golden(f)
	names, files := unpack(f, bundle)
	f.Add(bundle)
	for n := range files {
		saved := files[n]
		files[n] = saved[:len(saved)/2]
		f.Add(pack(f, names, files))
		files[n] = append(bytes.Clone(saved), saved...)
		f.Add(pack(f, names, files))
		files[n] = saved
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		allocates(t, len(b), func() {
			_, _, err := checkBundle(b, key)
			if err == nil && !bytes.Equal(b, bundle) {
				t.Error("a forgery holds")
			}
			if err != nil && !errors.Is(err, ErrEvidence) {
				t.Errorf("the error is %v, want ErrEvidence", err)
			}
		})
	})
}

// FuzzCheckpoint: no other bytes than those that a node signed are a checkpoint,
// and what several of them are cut into is what was there.
func FuzzCheckpoint(f *testing.F) {
	fx := newProver(f)
	p := fx.prove(f, []byte("x"))
	c, err := fx.Checkpoint(context.Background(), 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Note())
	f.Add(append(c.Note(), c.Note()...))
	f.Add([]byte("a\n\n— b c\n— d e\n\n\nf"))
	f.Fuzz(func(t *testing.T, b []byte) {
		allocates(t, 4*len(b), func() {
			if _, err := ParseCheckpoint(b, p.key); err == nil && !bytes.Equal(b, c.note) {
				t.Errorf("%q is a checkpoint", b)
			}
			var all []byte
			for _, n := range SplitNotes(b) {
				all = append(all, n...)
			}
			if strip(all) != strip(b) {
				t.Errorf("%q is cut into %q", b, all)
			}
		})
	})
}

func strip(b []byte) string { return strings.ReplaceAll(string(b), "\n", "") }

// buildNext lays out a batch as the segment after the known tail.
func (p *partition) buildNext(batch []*item) *built {
	seq, hash := p.tail()
	return p.build(batch, seq, hash)
}
