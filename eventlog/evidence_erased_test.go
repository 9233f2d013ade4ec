package eventlog

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"holdfast/event"
)

// certified is a log with an erasure in it, and the certificate of that.
func (f *fixture) certified(t *testing.T, reason string) (proven, *event.Erased) {
	t.Helper()
	ctx := context.Background()
	p := f.prove(t, []byte("Subject: x\r\n\r\ntext\r\n"))
	done, err := f.Erase(ctx, []event.Ref{p.ref})
	if err != nil {
		t.Fatal(err)
	}
	fact := &event.Erased{At: f.Millis(), Order: event.NewID(), Who: "root", Reason: reason, Items: []event.ErasedItem{{
		Message: p.ref.ID, Place: p.ref, Accounts: []event.Account{{7}}, Digests: done[0].Digests, Size: done[0].Size,
	}, {Message: p.ref.ID, Place: event.Ref{ID: event.NewID(), Position: p.ref.Position}}}}
	id := event.NewID()
	pos, err := f.Append(ctx, event.Event{ID: id, Tenant: f.tenant, Fact: fact})
	if err != nil {
		t.Fatal(err)
	}
	p.ref, p.body = event.Ref{Position: pos, ID: id}, nil
	p.bundle = p.again(t)
	return p, fact
}

func TestCertificateOfErasure(t *testing.T) {
	f := newProver(t)
	p, fact := f.certified(t, "court order\nevent: 00000000000000000000000000000000\n")
	e, body, err := checkBundle(p.bundle, p.key)
	if err != nil {
		t.Fatal(err)
	}
	if len(body) != 0 || e.Ref != p.ref || e.Tenant != f.tenant || e.Log != f.ID() || !reflect.DeepEqual(e.Fact, fact) {
		t.Errorf("it proves %+v", e)
	}
	names, files := unpack(t, p.bundle)
	if len(names) != 6 || !strings.Contains(string(files[fileText]), p.ref.ID.String()) || !strings.Contains(string(files[fileText]), "\nmessages: 1\nplaces: 2\n") || len(files[fileKeys]) != 32 {
		t.Errorf("%v", names)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for at := rng.IntN(5); at < len(p.bundle); at += 1 + rng.IntN(40) {
		bad := bytes.Clone(p.bundle)
		bad[at] ^= 1 << rng.IntN(8)
		if _, _, err := checkBundle(bad, p.key); !errors.Is(err, ErrEvidence) {
			t.Errorf("a flipped bit at %d: %v", at, err)
		}
	}
	for at := 0; at < len(p.bundle); at += 1 + at%31 {
		if _, _, err := checkBundle(p.bundle[:at], p.key); !errors.Is(err, ErrEvidence) {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
	if _, _, err := checkBundle(append(bytes.Clone(p.bundle), make([]byte, 512)...), p.key); !errors.Is(err, ErrEvidence) {
		t.Errorf("more: %v", err)
	}
}

// A certificate and evidence of a message cannot stand in for each other, whole
// or in parts.
func TestCertificatesCannotBeMixed(t *testing.T) {
	f := newProver(t)
	message := f.prove(t, []byte("one"))
	a, _ := f.certified(t, "one")
	b, _ := f.certified(t, "two")
	names, mine := unpack(t, a.bundle)
	for _, other := range []proven{message, b} {
		_, theirs := unpack(t, other.bundle)
		for choice := 1; choice < 1<<len(names); choice++ {
			mixed := map[string][]byte{}
			for i, n := range names {
				if mixed[n] = mine[n]; choice>>i&1 == 1 {
					mixed[n] = theirs[n]
				}
			}
			bundle := pack(t, names, mixed)
			if bytes.Equal(bundle, a.bundle) || bytes.Equal(bundle, b.bundle) {
				continue
			}
			if e, _, err := checkBundle(bundle, a.key); !errors.Is(err, ErrEvidence) {
				t.Errorf("mixed %06b: %+v, %v", choice, e, err)
			}
		}
	}
	// Nor does the state of a message, with its key alone, certify anything.
	_, files := unpack(t, message.bundle)
	files[fileKeys] = files[fileKeys][32:]
	if e, _, err := checkBundle(pack(t, names, files), a.key); !errors.Is(err, ErrEvidence) {
		t.Errorf("an acceptance without its mail: %+v, %v", e, err)
	}
}

func TestEvidenceOfAKeptMessage(t *testing.T) {
	ctx := context.Background()
	p := newProver(t).prove(t, []byte("Subject: kept\r\n\r\ntext\r\n"))
	first := p.ref
	kept, err := p.Keep(ctx, first, p.day+30, event.KeptFiled)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.root().AdvanceTo(p.day + 1); err != nil {
		t.Fatal(err)
	}
	p.Forget(p.day + 1)
	p.ref = kept
	bundle := p.again(t)
	e := p.holds(t, bundle)
	if e.Kept == nil || e.Kept.Message != first.ID || e.Kept.From != first {
		t.Errorf("it proves %+v", e)
	}
	_, files := unpack(t, bundle)
	if text := string(files[fileText]); !strings.Contains(text, "message: "+first.ID.String()) || !strings.Contains(text, "what: accepted") {
		t.Errorf("it says %s", text)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for at := rng.IntN(5); at < len(bundle); at += 1 + rng.IntN(40) {
		bad := bytes.Clone(bundle)
		bad[at] ^= 1 << rng.IntN(8)
		if _, _, err := checkBundle(bad, p.key); !errors.Is(err, ErrEvidence) {
			t.Errorf("a flipped bit at %d: %v", at, err)
		}
	}
}
