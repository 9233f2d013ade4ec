package event

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"testing"
)

// everyFact has one filled example of each fact of this version.
func everyFact() []Fact {
	id, acc := ID{1}, Account{2}
	uids := []UIDRange{{First: 1, Last: 7}}
	unit := Unit{Source: id, N: 3}
	return []Fact{
		&MessageAccepted{Origin: OriginInbound, At: 5, Size: 10, Shown: 20, Recipients: 1,
			Allotments: []Allotment{{Account: acc, Place: PlaceSent, Seen: true, Copy: [16]byte{9}}},
			Routes:     []Route{{Domain: "y", Outside: true, N: 1}},
			Meta: &MessageMeta{From: "a\xff@b", Recipients: []Recipient{{Path: "x@y", Domain: "y", Account: acc}},
				Trace: []byte("Received: \r\n"), SHA256: [32]byte{1}, Index: []byte{0xa0}}},
		&Repudiated{Message: id, Accounts: []Account{acc}},
		&DeliveryIntended{At: 1, Epoch: 2, Units: []Unit{unit}},
		&DeliverySettled{At: 1, Outcomes: []Outcome{{Unit: unit, Result: ResultLost, Code: 421, RetryAt: 9, Normalised: true, Phase: 3, Uncertain: true, Epoch: 2}},
			Meta: &ReplyMeta{Replies: []string{"421 no"}}},
		&HealthChanged{At: 1, Domain: "d", From: HealthUp, To: HealthDown, Evidence: []Evidence{{At: 1, What: "probe-failed"}}, NeedsDelivery: true},
		&RedeliveryOrdered{At: 1, Who: "w", Items: []Redelivery{{Message: Ref{ID: id, Position: Position{1, 2, 3}}, N: 1, Domain: "d", Outside: true}}, To: "t", Until: 4},
		&MailboxCreated{Account: acc, Name: "n", Use: "\\Archive"},
		&MailboxDeleted{Account: acc, Name: "n"},
		&MailboxRenamed{Account: acc, From: "f", To: "t"},
		&MailboxSubscribed{Account: acc, Name: "n", Subscribed: true},
		&FlagsChanged{Account: acc, Mailbox: 1, UIDs: uids, Op: FlagsAdd, Flags: []string{"\\Seen"}, UnchangedSince: 4},
		&Expunged{Account: acc, Mailbox: 1, UIDs: uids},
		&Copied{Account: acc, From: 1, UIDs: uids, To: 2, Move: true},
		&Appended{Account: acc, Mailbox: 1, At: 1, Date: 2, Size: 3, Flags: []string{"x"}, Copy: [16]byte{1}, Domain: "acme.test", Meta: &AppendedMeta{Index: []byte{0xa0}, Owner: "alice@acme.test"}},
		&TenantCreated{Name: "n"},
		&DomainClaimed{Domain: "d", Tenant: Tenant{1}, Release: true},
		&DomainSet{Domain: "d", Primary: []string{"smtp://x"}, Continuity: "always", ShadowDays: 30, Recipients: "any", ProbeEvery: 1, DownAfter: 2, UpAfter: 3},
		&DomainRemoved{Domain: "d"},
		&UserSet{Account: acc, Address: "a", Aliases: []string{"b"}, Password: "h"},
		&UserRemoved{Address: "a"},
		&FailoverSet{At: 1, Domain: "d", Mode: "on", Who: "w"},
		&Audited{At: 1, Who: "w", Act: "search", Detail: "d", Count: 3},
		&KeysBackedUp{At: 1},
		&Adopted{At: 1, URL: "u"},
		&Posted{Topic: "t", UUID: "u", Metadata: map[string]string{"a": "b"}, Payload: []byte{1}},
		&CursorMoved{Group: "g", Topic: "t", To: Position{1, 2, 3}},
		&DayCondemned{At: 1, Day: 2},
		&Kept{At: 1, Message: id, From: Ref{ID: id, Position: Position{1, 2, 3}}, Why: KeptFiled | KeptHold, Was: []byte{0x82}, Meta: &KeptMeta{Was: []byte{0xa0}}},
		&DayExpired{At: 1, Day: 2},
		&RatchetMoved{At: 1, To: 2},
		&DayRemoved{At: 1, Day: 2, Objects: 3, Bytes: 4, Locked: 5},
		&ObjectsCondemned{At: 1, Messages: []ID{id}},
		&HoldPlaced{At: 1, Who: "w", Name: "n", Reason: "r", Match: HoldMatch{Domain: "d", Users: []string{"u"}, Rcpt: "t", From: "f",
			Subject: "s", MessageID: "m", Since: 1, Until: 2, Messages: []ID{id}}},
		&HoldReleased{At: 1, Who: "w", Name: "n", Reason: "r"},
		&ErasureOrdered{At: 1, Who: "w", Reason: "r", Items: []Ref{{ID: id}}, Holds: 2},
		&Erased{At: 1, Order: id, Who: "w", Reason: "r", Items: []ErasedItem{{Message: id, Place: Ref{ID: id}, Accounts: []Account{acc}, Digests: [][32]byte{{1}}, Size: 9}}},
		&TenantEndOrdered{At: 1, Who: "w", Reason: "r", Name: "n", Holds: 2},
		&TenantCondemned{At: 1, Who: "w", Reason: "r", Name: "n", Tenant: Tenant{1}},
		&TenantEnded{At: 1, Who: "w", Reason: "r", Tenant: Tenant{1}, Name: "n", Order: id, Objects: 1, Bytes: 2, Locked: 3},
		&BaseTaken{At: 1, Projection: "p", Version: 2, Cursors: []BaseCursor{{Seq: 1, Hash: [32]byte{2}, Prev: [32]byte{3}}}, Hash: [32]byte{4}, Size: 5, Index: Snap{6}, Chunks: 7},
		&DaySwept{At: 1},
	}
}

func TestEveryFactReadsBackEqual(t *testing.T) {
	seen := map[Kind]bool{}
	for _, f := range everyFact() {
		state, meta := Encode(f)
		got, err := Decode(state, meta)
		if err != nil {
			t.Errorf("%T: %v", f, err)
			continue
		}
		if !reflect.DeepEqual(got, f) {
			t.Errorf("%T: got %+v, want %+v", f, got, f)
		}
		again, againMeta := Encode(got)
		if !bytes.Equal(again, state) || !bytes.Equal(againMeta, meta) {
			t.Errorf("%T: encoding is not deterministic", f)
		}
		if f.Class() == 0 || !AllClasses.Has(f.Class()) {
			t.Errorf("%T: class %d is not defined", f, f.Class())
		}
		seen[f.Kind()] = true
	}
	for k := range Kind(100) {
		if (newFact(k) != nil) != seen[k] {
			t.Errorf("kind %d: has an example: %v, is decoded: %v", k, seen[k], newFact(k) != nil)
		}
	}
}

func TestExpiredMetaIsNil(t *testing.T) {
	state, _ := Encode(everyFact()[0])
	got, err := Decode(state, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m := got.(*MessageAccepted); m.Meta != nil || m.Size != 10 {
		t.Errorf("got %+v, want the long-lived part alone", m)
	}
}

func TestUnknownKindStops(t *testing.T) {
	state := Marshal([]any{99, map[int]int{}})
	if _, err := Decode(state, nil); !errors.Is(err, ErrUnknownKind) {
		t.Errorf("got %v, want ErrUnknownKind", err)
	}
}

// A mail-derived part must never slip into the long-lived one, which outlives
// the mail.
func TestStateHoldsNoMeta(t *testing.T) {
	state, meta := Encode(everyFact()[0])
	if bytes.Contains(state, []byte("x@y")) || !bytes.Contains(meta, []byte("x@y")) {
		t.Error("the recipient's address is in the long-lived part, or not in the mail-derived one")
	}
}

func TestKeptHoldsTheOriginal(t *testing.T) {
	want := everyFact()[0]
	state, meta := Encode(want)
	k := &Kept{Was: state, Meta: &KeptMeta{Was: meta}}
	if got, err := k.Original(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	k.Meta = nil
	if got, err := k.Original(); err != nil || got.(*MessageAccepted).Meta != nil || got.(*MessageAccepted).Size != 10 {
		t.Errorf("expired: got %+v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, fact := range everyFact() {
		s, m := Encode(fact)
		f.Add(s, m)
	}
	f.Fuzz(func(t *testing.T, state, meta []byte) {
		if len(meta) == 0 {
			meta = nil
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		fact, err := Decode(state, meta)
		runtime.ReadMemStats(&after)
		if used, n := after.TotalAlloc-before.TotalAlloc, uint64(len(state)+len(meta)); used > 64*n+64<<10 {
			t.Errorf("%d bytes made it allocate %d", n, used)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of an unexpected kind: %v", err)
			}
			return
		}
		s, m := Encode(fact)
		again, err := Decode(s, m)
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		s2, m2 := Encode(again)
		if !bytes.Equal(s, s2) || !bytes.Equal(m, m2) {
			t.Fatal("encoding is not stable")
		}
	})
}

func TestDays(t *testing.T) {
	for _, s := range []string{"1970-01-01", "2026-11-21", "2100-02-28", "1969-12-31"} {
		d, err := ParseDay(s)
		if err != nil || d.String() != s {
			t.Errorf("%s: got %s, %v", s, d, err)
		}
		if DayOf(d.Start()) != d || DayOf(d.Start().Add(-1)) != d-1 {
			t.Errorf("%s: edges of the day are wrong", s)
		}
	}
}
