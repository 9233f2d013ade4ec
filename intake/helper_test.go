package intake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

var alice, bob = event.Account{1}, event.Account{2}

// book is a directory of two customers: acme.example lists its users, other's
// domain any.example takes everybody.
type book struct{ acme, other event.Tenant }

func (b book) Target(local, domain string) (Target, error) {
	users := map[string]event.Account{"alice": alice, "al": alice, "bob": bob, "a b": bob, "postmaster": alice}
	switch domain {
	case "acme.example", "":
		a, ok := users[local]
		if !ok {
			return Target{}, ErrUnknownRecipient
		}
		return Target{Tenant: b.acme, Domain: "acme.example", Account: a, ShadowDays: 30}, nil
	case "long.example":
		return Target{Tenant: b.acme, Domain: domain, ShadowDays: 90}, nil
	case "any.example":
		return Target{Tenant: b.other, Domain: domain, ShadowDays: 10}, nil
	}
	return Target{}, ErrNotOurs
}

// house is a Service on a log.
type house struct {
	t testing.TB
	*Service
	log  *eventlog.Log
	book book
}

func newHouse(t testing.TB, bucket objstore.Bucket) *house {
	t.Helper()
	ctx := context.Background()
	keys := crypto.MemoryRoot(event.DayOf(time.Now()))
	log, err := eventlog.Open(ctx, eventlog.Options{Bucket: bucket, URL: "mem:", Keys: keys, MayCreate: true, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		log.Close(short)
	})
	h := &house{t: t, log: log}
	for name, id := range map[string]*event.Tenant{"acme": &h.book.acme, "other": &h.book.other} {
		if *id, err = keys.TenantID(ctx, name); err != nil {
			t.Fatal(err)
		}
		if err := log.EnsureTenant(ctx, *id); err != nil {
			t.Fatal(err)
		}
	}
	mark := func(_ context.Context, _ event.Tenant, _ event.Account, id string, own [32]byte) ([16]byte, error) {
		sum := sha256.Sum256(append([]byte(id+"|"), own[:]...))
		return [16]byte(sum[:]), nil
	}
	h.Service = New(Config{Log: log, Directory: h.book, Hostname: "mx.acme.example", CopyMark: mark})
	return h
}

// in runs a test in a bubble, on a bucket in memory.
func in(t *testing.T, test func(t *testing.T, h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newHouse(t, mem.New())) })
}

var peer = Peer{Addr: "192.0.2.7", Helo: "client.example", ESMTP: true}

// rcpt splits a path the way the protocol does.
func rcpt(path string) Rcpt {
	local, domain := path, ""
	if i := strings.LastIndexByte(path, '@'); i >= 0 {
		local, domain = path[:i], path[i+1:]
	}
	return Rcpt{Path: path, Local: strings.Trim(local, `"`), Domain: strings.ToLower(domain)}
}

func (h *house) begin(rcpts ...string) *Tx {
	h.t.Helper()
	tx := h.Begin(peer, Envelope{From: "sender@elsewhere.example"})
	for _, r := range rcpts {
		if err := tx.Rcpt(rcpt(r)); err != nil {
			h.t.Fatalf("recipient: %v", err)
		}
	}
	return tx
}

// sender is alice, who has an alias and a quoted address.
func (h *house) sender() Sender {
	return Sender{
		Tenant: h.book.acme, Account: alice, Address: "alice@acme.example", Domain: "acme.example", ShadowDays: 30, Outbound: true,
		Owns: func(a string) bool {
			return strings.EqualFold(a, "alice@acme.example") || strings.EqualFold(a, "al@acme.example") || a == `"a l"@acme.example`
		},
	}
}

func (h *house) submit(rcpts ...string) *Tx {
	h.t.Helper()
	tx, err := h.Submit(peer, Envelope{From: "alice@acme.example"}, h.sender())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range rcpts {
		if err := tx.Rcpt(rcpt(r)); err != nil {
			h.t.Fatalf("recipient: %v", err)
		}
	}
	return tx
}

// events returns what is in the log.
func (h *house) events() (list []eventlog.Recorded) {
	h.t.Helper()
	for r, err := range h.log.Read(context.Background(), 0, eventlog.Cursor{}) {
		if err != nil {
			h.t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

// keep lets a message in and returns what stands in the log then.
func (h *house) keep(tx *Tx, text string) (*event.MessageAccepted, []byte) {
	h.t.Helper()
	id, err := tx.Data(h.t.Context(), strings.NewReader(text))
	if err != nil {
		h.t.Fatalf("data: %v", err)
	}
	list := h.events()
	last := list[len(list)-1]
	f, ok := last.Fact.(*event.MessageAccepted)
	if !ok || last.Ref.ID != id || f.Meta == nil {
		h.t.Fatalf("the log ends in %+v", last)
	}
	return f, h.body(last.Ref, f)
}

// body reads a message back and checks what the event says of it.
func (h *house) body(ref event.Ref, f *event.MessageAccepted) []byte {
	h.t.Helper()
	r, err := h.log.Body(context.Background(), ref)
	if err != nil {
		h.t.Fatalf("body: %v", err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		h.t.Fatalf("body: %v", err)
	}
	if int64(len(b)) != f.Size || sha256.Sum256(b) != f.Meta.SHA256 || f.Shown != f.Size+int64(len(f.Meta.Trace)) {
		h.t.Errorf("body of %d bytes, the event says %d and shows %d", len(b), f.Size, f.Shown)
	}
	return b
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// isRefusal reports whether a sender hears an error as permanent.
func isRefusal(err error) bool {
	for _, e := range []error{ErrUnknownRecipient, ErrNotOurs, ErrSecondTenant, ErrTooManyHops, ErrSenderNotYours, ErrNoOutbound} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// filler is a message of n bytes that takes no memory.
func filler(n int64) io.Reader {
	head := "Subject: large\r\n\r\n"
	return io.MultiReader(strings.NewReader(head), io.LimitReader(&cycle{text: noise()}, n-int64(len(head))))
}

// noise does not compress well.
func noise() []byte {
	var b bytes.Buffer
	sum := sha256.Sum256(nil)
	for b.Len() < 1<<20 {
		sum = sha256.Sum256(sum[:])
		fmt.Fprintf(&b, "%x%x\r\n", sum, sum[:5])
	}
	return b.Bytes()
}

type cycle struct {
	text []byte
	at   int
}

func (c *cycle) Read(p []byte) (int, error) {
	n := copy(p, c.text[c.at:])
	c.at = (c.at + n) % len(c.text)
	return n, nil
}
