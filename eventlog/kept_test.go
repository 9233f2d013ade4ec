package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"reflect"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore/mem"
)

// accept appends a message and returns where it is.
func (f *fixture) accept(t *testing.T, body []byte) event.Ref {
	t.Helper()
	ev := f.message(t, body)
	pos, err := f.Append(context.Background(), ev)
	if err != nil {
		t.Fatal(err)
	}
	return event.Ref{Position: pos, ID: ev.ID}
}

// root returns the fixture's root key.
func (f *fixture) root() *crypto.Root { return f.opt.Keys.(*crypto.Root) }

func TestKeep(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "small": 3000, "in parts": 9<<20 + 17} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := openFixture(t, newOptions(t, mem.New()))
			body := randomBytes(size)
			first := f.accept(t, body)
			was, err := f.Event(ctx, first)
			if err != nil {
				t.Fatal(err)
			}
			second, err := f.Keep(ctx, first, f.day+1, event.KeptFiled)
			if err != nil {
				t.Fatal(err)
			}
			third, err := f.Keep(ctx, second, f.day+30, event.KeptFiled|event.KeptHold)
			if err != nil {
				t.Fatal(err)
			}
			// The day of the first copy goes, and with it all but the last.
			if err := f.root().AdvanceTo(f.day + 2); err != nil {
				t.Fatal(err)
			}
			f.Forget(f.day + 2)
			for _, g := range []*fixture{f, openFixture(t, f.opt)} {
				r, err := g.Event(ctx, third)
				if err != nil || r.Kept == nil || r.Kept.Message != first.ID || r.Kept.From != second || r.Expiry != f.day+30 ||
					r.Kept.Why != event.KeptFiled|event.KeptHold || r.Blobs != was.Blobs || !r.HasBody || r.Ref != third {
					t.Fatalf("%+v, %+v, %v", r, r.Kept, err)
				}
				if !reflect.DeepEqual(r.Fact, was.Fact) {
					t.Errorf("the fact became %+v, was %+v", r.Fact, was.Fact)
				}
				g.wantBody(t, third, body)
				for _, old := range []event.Ref{first, second} {
					if _, err := g.Body(ctx, old); !errors.Is(err, crypto.ErrExpired) {
						t.Errorf("the body of %v: %v", old, err)
					}
					if r, err := g.Event(ctx, old); err != nil || r.Fact.(*event.MessageAccepted).Meta != nil {
						t.Errorf("%v, %+v", err, r.Fact)
					}
				}
				if _, err := g.Keep(ctx, second, f.day+31, event.KeptDue); !errors.Is(err, crypto.ErrExpired) {
					t.Errorf("keep what has expired: %v", err)
				}
			}
			var found []Finding
			if _, err := f.Verify(ctx, func(x Finding) { found = append(found, x) }); err != nil || len(found) > 0 {
				t.Errorf("%v, %v", found, err)
			}
		})
	}
}

func TestKeepAppended(t *testing.T) {
	ctx := context.Background()
	f := openFixture(t, newOptions(t, mem.New()))
	id, body := event.NewID(), randomBytes(2000)
	w, err := f.NewBody(ctx, id, f.tenant, f.day)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	b, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	fact := &event.Appended{
		Account: event.Account{7}, Mailbox: 3, At: 12, Size: 2000,
		Meta: &event.AppendedMeta{SHA256: sha256.Sum256(body), Index: []byte{0xa0}},
	}
	pos, err := f.Append(ctx, event.Event{ID: id, Tenant: f.tenant, Expiry: f.day, Body: b, Fact: fact})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := f.Keep(ctx, event.Ref{Position: pos, ID: id}, f.day+5, event.KeptFiled)
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Event(ctx, kept)
	if err != nil || !reflect.DeepEqual(r.Fact, fact) {
		t.Errorf("%+v, %v", r.Fact, err)
	}
	f.wantBody(t, kept, body)
}

func TestWhatCannotBeKept(t *testing.T) {
	ctx := context.Background()
	f := openFixture(t, newOptions(t, mem.New()))
	pos, err := f.Append(ctx, event.Event{ID: event.ID{1}, Tenant: f.tenant, Fact: &event.MailboxCreated{Name: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Keep(ctx, event.Ref{Position: pos, ID: event.ID{1}}, f.day+1, event.KeptFiled); err == nil {
		t.Error("a mailbox was kept")
	}
	ref := f.accept(t, randomBytes(100))
	wrong := ref
	wrong.ID[0]++
	if _, err := f.Keep(ctx, wrong, f.day+1, event.KeptFiled); !errors.Is(err, ErrDamaged) {
		t.Errorf("keep what is not there: %v", err)
	}
	// A day for the copy that is over must not read as if the message were gone.
	f.NoteCondemned(f.tenant, f.day+1)
	if _, err := f.Keep(ctx, ref, f.day+1, event.KeptFiled); !errors.Is(err, ErrCondemned) || errors.Is(err, crypto.ErrExpired) {
		t.Errorf("keep under a condemned day: %v", err)
	}
	if _, err := f.Keep(ctx, ref, event.DayOf(time.Now())-1, event.KeptFiled); !errors.Is(err, ErrCondemned) || errors.Is(err, crypto.ErrExpired) {
		t.Errorf("keep under an expired day: %v", err)
	}
	if _, err := f.Keep(ctx, ref, f.day+2, event.KeptFiled); err != nil {
		t.Error(err)
	}
}
