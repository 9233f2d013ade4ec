package eventlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

// The sample is a small bucket with its root key and the original messages. It
// is made once and kept, so that the test below says whether a bucket of that
// day can still be read, and so that readers in other languages have something
// to try themselves on (docs/reader). go test -run TestSample -update makes it
// anew, always the same with one version of Go.
var updateSample = flag.Bool("update", false, "make docs/reader/sample anew")

const (
	sampleDir = "../docs/reader/sample"
	sampleURL = "file:/var/lib/holdfast/bucket"
)

func TestSample(t *testing.T) {
	if *updateSample {
		makeSample(t)
	}
	ctx := t.Context()
	// Git keeps no mode 0600.
	key := filepath.Join(t.TempDir(), "root.key")
	raw, err := os.ReadFile(filepath.Join(sampleDir, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := crypto.LoadRoot(key)
	if err != nil {
		t.Fatal(err)
	}
	b := mem.New()
	load(t, b, filepath.Join(sampleDir, "bucket"))
	l, err := Open(ctx, Options{Bucket: b, URL: sampleURL, Keys: root, Inspect: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close(ctx)
	if _, err := l.Verify(ctx, func(f Finding) { t.Errorf("%v: %v", f, f.Err) }); err != nil {
		t.Error(err)
	}
	kinds, read, expired := map[event.Kind]bool{}, 0, 0
	for p := range event.Partition(l.Partitions()) {
		for r, err := range l.Read(ctx, p, Cursor{}) {
			if err != nil {
				t.Fatal(err)
			}
			kinds[r.Fact.Kind()] = true
			if !r.HasBody {
				continue
			}
			body, err := l.Body(ctx, r.Ref)
			if errors.Is(err, crypto.ErrExpired) {
				expired++
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			want, werr := os.ReadFile(filepath.Join(sampleDir, "messages", r.Ref.ID.String()+".eml"))
			if err != nil || werr != nil || !bytes.Equal(got, want) {
				t.Errorf("message %v differs: %v %v", r.Ref.ID, err, werr)
			}
			read++
		}
	}
	originals, err := os.ReadDir(filepath.Join(sampleDir, "messages"))
	if err != nil || len(originals) != read || expired != 3 {
		t.Errorf("%d messages read of %d (%v), %d expired", read, len(originals), err, expired)
	}
	for _, f := range sampleFacts(event.ID{}, event.Ref{}) {
		if !kinds[f.Kind()] {
			t.Errorf("kind %d is not in the sample", f.Kind())
		}
	}
}

func load(t *testing.T, b objstore.Bucket, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		key, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		_, err = b.Put(t.Context(), filepath.ToSlash(key), bytes.NewReader(raw), int64(len(raw)), objstore.PutOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sampler makes the sample.
type sampler struct {
	t      *testing.T
	bucket *fault.Bucket
	root   *crypto.Root
	log    *Log
	sent   map[event.ID][]byte
}

func (s *sampler) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func makeSample(t *testing.T) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "root.key")
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, 250)
		time.Sleep(time.Until(time.Date(2026, 3, 2, 21, 30, 0, 0, time.UTC)))
		root, err := crypto.CreateRoot(key, event.DayOf(time.Now()))
		s := &sampler{t: t, bucket: fault.Wrap(mem.New()), root: root, sent: map[event.ID][]byte{}}
		s.check(err)
		s.firstDay()
		time.Sleep(3 * time.Hour)
		s.secondDay()
		s.check(root.AdvanceTo(event.DayOf(time.Now()) + 1))
		s.write(key)
		s.bucket.Close()
	})
}

func (s *sampler) open() {
	var err error
	s.log, err = Open(context.Background(), Options{Bucket: s.bucket, URL: sampleURL, Keys: s.root, MayCreate: true})
	s.check(err)
	s.check(s.root.MarkUsed(s.log.ID()))
	// Small, so that a sample of some kilobytes has bodies of several parts.
	s.log.bodies.inline, s.log.bodies.part = 6<<10, 7<<10
}

func (s *sampler) leave() {
	_, err := s.log.CheckpointAll(context.Background())
	s.check(err)
	s.check(s.log.Close(context.Background()))
}

func (s *sampler) tenant(name string) event.Tenant {
	id, err := s.root.TenantID(context.Background(), name)
	s.check(err)
	s.check(s.log.EnsureTenant(context.Background(), id))
	return id
}

func (s *sampler) append(t event.Tenant, f event.Fact, expiry event.Day) event.Ref {
	ev := event.Event{ID: event.NewID(), Tenant: t, Fact: f, Expiry: expiry}
	pos, err := s.log.Append(context.Background(), ev)
	s.check(err)
	return event.Ref{Position: pos, ID: ev.ID}
}

// mail makes the event of a message; fact makes its fact of what was measured.
func (s *sampler) mail(t event.Tenant, days event.Day, text string, fact func(m Mail, trace []byte) event.Fact) event.Event {
	ctx := context.Background()
	ev := event.Event{ID: event.NewID(), Tenant: t, Expiry: event.DayOf(s.log.Now()) + days}
	trace := fmt.Appendf(nil, "Received: from mail.far.test by mx.holdfast.test id %s;\r\n\tMon, 2 Mar 2026 21:30:00 +0000\r\n", ev.ID)
	w, err := s.log.NewMail(ctx, ev.ID, t, ev.Expiry, trace)
	s.check(err)
	_, err = io.WriteString(w, text)
	s.check(err)
	m, err := w.Finish()
	s.check(err)
	ev.Body, ev.Fact = m.Body, fact(m, trace)
	s.sent[ev.ID] = []byte(text)
	return ev
}

// accepted makes the acceptance of a message.
func (s *sampler) accepted(t event.Tenant, days event.Day, origin event.Origin, text string, rcpts ...event.Recipient) event.Event {
	return s.mail(t, days, text, func(m Mail, trace []byte) event.Fact {
		f := &event.MessageAccepted{
			Origin: origin, At: s.log.Millis(), Size: m.Size, Shown: m.Shown, Recipients: uint32(len(rcpts)), Routes: event.RoutesOf(rcpts),
			Meta: &event.MessageMeta{
				From: "sender@far.test", Recipients: rcpts, EnvID: "QQ+3D1", Helo: "mail.far.test", Peer: "192.0.2.7",
				TLS: "TLS 1.3 TLS_AES_128_GCM_SHA256", Trace: trace, SHA256: m.SHA256, Index: m.Raw, Body8: m.Index.Is8bit,
			},
		}
		for _, r := range rcpts {
			if r.Account != (event.Account{}) {
				f.Allotments = append(f.Allotments, event.Allotment{Account: r.Account, Place: event.PlaceInbox})
			}
		}
		return f
	})
}

func (s *sampler) put(evs ...event.Event) event.Ref {
	pos, err := s.log.Append(context.Background(), evs...)
	s.check(err)
	return event.Ref{Position: pos, ID: evs[0].ID}
}

// unlike returns text that does not compress.
func unlike(seed string, n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%x\r\n", sha256.Sum256(fmt.Append(nil, seed, i)))
	}
	return b.String()[:n]
}

func (s *sampler) firstDay() {
	s.open()
	acme, beta := s.tenant("acme"), s.tenant("bravo")
	alice := event.Recipient{Path: "alice@acme.test", Domain: "acme.test", Account: event.NewAccount(), Notify: "FAILURE", ORcpt: "rfc822;alice@acme.test"}
	bob := event.Recipient{Path: "bob@acme.test", Domain: "acme.test"}
	outside := event.Recipient{Path: "carol@far.test", Domain: "far.test", Outside: true, Via: "acme.test"}
	head := "From: Sender <sender@far.test>\r\nTo: alice@acme.test\r\nSubject: "
	plain := s.put(s.accepted(acme, 30, event.OriginInbound, head+"plain\r\n\r\nA short message.\r\n.\r\nwith a dot\r\n", alice, bob, outside))
	s.put(
		s.accepted(acme, 30, event.OriginInbound, head+"odd bytes\r\n\r\n\x00 caf\xe9 \xff bare\nLF, bare\rCR, no end", bob),
		s.accepted(acme, 30, event.OriginBounce, "", outside),
	)
	s.put(s.accepted(beta, 7, event.OriginInbound, head+"to the other tenant\r\n\r\nGrüße\r\n", event.Recipient{Path: "dora@beta.test", Domain: "beta.test"}))
	s.put(s.accepted(acme, 30, event.OriginInbound, head+"two chunks that compress\r\n\r\n"+strings.Repeat("All work and no play makes Jack a dull boy.\r\n", 1600), alice))
	s.put(s.accepted(acme, 30, event.OriginSubmission, head+"three blobs\r\n\r\n"+unlike("blob", 20_000), outside))
	s.put(s.accepted(beta, 1, event.OriginInbound, head+"nobody will read this any more\r\n\r\n", event.Recipient{Path: "dora@beta.test", Domain: "beta.test"}))
	s.put(s.mail(acme, 30, head+"a draft\r\n\r\nbrought by the user\r\n", func(m Mail, _ []byte) event.Fact {
		return &event.Appended{
			Account: alice.Account, Mailbox: 2, At: s.log.Millis(), Date: s.log.Millis() - 60_000, Size: m.Size, Flags: []string{`\Draft`, `\Seen`},
			Domain: "acme.test", Meta: &event.AppendedMeta{SHA256: m.SHA256, Index: m.Raw, Owner: alice.Path},
		}
	}))
	// The answer to a put is lost and the store then silent past the deadline: the
	// sender heard 451, and the message is taken back.
	s.bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LostAnswer})
	h := s.bucket.Inject(fault.Rule{KeyPrefix: "log/", Kind: fault.Hang, Times: -1})
	_, err := s.log.Append(context.Background(), s.accepted(acme, 30, event.OriginInbound, head+"taken back\r\n\r\n", bob))
	if !errors.Is(err, ErrTimeout) {
		s.t.Fatalf("append: %v", err)
	}
	h.Remove()
	time.Sleep(time.Minute)
	for _, f := range sampleFacts(plain.ID, plain) {
		switch f := f.(type) {
		case *event.MessageAccepted, *event.Repudiated, *event.Appended, *event.Kept, *event.Erased, *event.TenantCondemned, *event.TenantEnded:
		case *event.DeliverySettled:
			s.append(acme, f, event.DayOf(s.log.Now())+30)
		case *event.DomainClaimed, *event.Audited, *event.KeysBackedUp, *event.Adopted,
			*event.RatchetMoved, *event.DayRemoved, *event.BaseTaken:
			s.append(event.SystemTenant, f, 0)
		default:
			s.append(acme, f, 0)
		}
	}
	s.leave()
}

// secondDay has another writer, and other keys.
func (s *sampler) secondDay() {
	s.open()
	acme, beta := s.tenant("acme"), s.tenant("bravo")
	for i := range 3 {
		s.put(s.accepted(acme, 30, event.OriginInbound, fmt.Sprintf("Subject: %d of the second day\r\n\r\n%s\r\n", i, strings.Repeat("x", i*100)),
			event.Recipient{Path: "alice@acme.test", Domain: "acme.test"}))
		s.put(s.accepted(beta, 7, event.OriginInbound, fmt.Sprintf("Subject: beta %d\r\n\r\n", i),
			event.Recipient{Path: "dora@beta.test", Domain: "beta.test"}))
	}
	s.keepAndErase(acme)
	s.endTenant("charlie")
	s.leave()
}

// endTenant has a tenant that has ended.
func (s *sampler) endTenant(name string) {
	ctx := context.Background()
	t := s.tenant(name)
	s.put(s.accepted(t, 30, event.OriginInbound, "Subject: ended\r\n\r\nnobody will read this, as the tenant has ended\r\n",
		event.Recipient{Path: "fay@charlie.test", Domain: "charlie.test"}))
	said := &event.TenantCondemned{At: s.log.Millis(), Who: "root", Reason: "left", Name: name, Tenant: t}
	s.append(t, said, 0)
	by := s.append(event.SystemTenant, said, 0)
	r, err := s.log.DestroyTenant(ctx, t, by)
	s.check(err)
	s.append(event.SystemTenant, &event.TenantEnded{
		At: s.log.Millis(), Who: "root", Reason: "left", Name: name, Tenant: t, Order: by.ID, Objects: r.Objects, Bytes: r.Bytes,
	}, 0)
}

// keepAndErase has a message that was kept twice, and one of several blobs that was
// erased, together with another one.
func (s *sampler) keepAndErase(t event.Tenant) {
	ctx := context.Background()
	rcpt := event.Recipient{Path: "alice@acme.test", Domain: "acme.test"}
	first := s.accepted(t, 30, event.OriginInbound, "Subject: kept\r\n\r\n"+unlike("kept", 15_000), rcpt)
	at := s.put(first)
	for i := range event.Day(2) {
		kept, err := s.log.Keep(ctx, at, event.DayOf(s.log.Now())+40+i, event.KeptFiled)
		s.check(err)
		s.sent[kept.ID] = s.sent[first.ID]
		at = kept
	}
	gone := []event.Ref{
		s.put(s.accepted(t, 30, event.OriginInbound, "Subject: erased\r\n\r\nnobody will read this, either\r\n"+unlike("erased", 15_000), rcpt)),
		s.put(s.accepted(t, 30, event.OriginInbound, "Subject: erased\r\n\r\nnobody will read this, either\r\n", rcpt)),
	}
	done, err := s.log.Erase(ctx, gone)
	s.check(err)
	order := event.NewID()
	fact := &event.Erased{At: s.log.Millis(), Order: order, Who: "root", Reason: "asked by the sender"}
	for _, d := range done {
		fact.Items = append(fact.Items, event.ErasedItem{Message: d.Message, Place: d.Ref, Accounts: d.Accounts, Digests: d.Digests, Size: d.Size})
	}
	s.append(t, fact, 0)
}

// write replaces the sample on disk.
func (s *sampler) write(key string) {
	s.check(os.RemoveAll(sampleDir))
	save := func(raw []byte, path ...string) {
		name := filepath.Join(append([]string{sampleDir}, path...)...)
		s.check(os.MkdirAll(filepath.Dir(name), 0o755))
		s.check(os.WriteFile(name, raw, 0o644))
	}
	ctx := context.Background()
	for info, err := range s.bucket.List(ctx, "", "") {
		s.check(err)
		raw, _, err := objstore.ReadAll(ctx, s.bucket, info.Key, 1<<30)
		s.check(err)
		save(raw, "bucket", filepath.FromSlash(info.Key))
	}
	raw, err := os.ReadFile(key)
	s.check(err)
	save(raw, "root.key")
	readable := maps.Clone(s.sent)
	for id, text := range readable {
		if bytes.Contains(text, []byte("nobody will read this")) { // expired, or erased
			continue
		}
		save(text, "messages", id.String()+".eml")
	}
}

// sampleFacts has one fact of each kind of this version, about a message.
func sampleFacts(id event.ID, ref event.Ref) []event.Fact {
	acc := event.Account(sha256.New().Sum(nil)[:16])
	unit := event.Unit{Source: id}
	uids := []event.UIDRange{{First: 1, Last: 2}, {First: 5, Last: 5}}
	at := event.Millis(1772486999000)
	facts := []event.Fact{
		&event.MessageAccepted{}, &event.Repudiated{}, &event.Appended{}, // made elsewhere
		&event.TenantCreated{Name: "acme"},
		&event.DomainClaimed{Domain: "acme.test", Tenant: event.Tenant{1}},
		&event.DomainSet{Domain: "acme.test", Primary: []string{"smtp://mx1.acme.test:25"}, Continuity: "outage", ShadowDays: 30, Recipients: "listed", ProbeEvery: 15000, DownAfter: 3, UpAfter: 2},
		&event.UserSet{Account: acc, Address: "alice@acme.test", Aliases: []string{"sales@acme.test"}, Password: "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAA"},
		&event.DeliveryIntended{At: at, Epoch: 3, Units: []event.Unit{unit}},
		&event.DeliverySettled{At: at, Outcomes: []event.Outcome{{Unit: unit, Result: event.ResultDelivered, Code: 250, Phase: 6}},
			Meta: &event.ReplyMeta{Replies: []string{"250 2.0.0 alice@acme.test: thank you"}}},
		&event.HealthChanged{At: at, Domain: "acme.test", From: event.HealthUp, To: event.HealthDown, Evidence: []event.Evidence{{At: at, What: "probe-failed", Phase: "connect", Detail: "timeout"}}},
		&event.RedeliveryOrdered{At: at, Who: "root", Items: []event.Redelivery{{Message: ref, N: 0, Domain: "acme.test"}}, Until: 20_600},
		&event.MailboxCreated{Account: acc, Name: "Reisen/Köln"},
		&event.MailboxRenamed{Account: acc, From: "Reisen/Köln", To: "Köln"},
		&event.MailboxSubscribed{Account: acc, Name: "Köln", Subscribed: true},
		&event.FlagsChanged{Account: acc, Mailbox: 1, UIDs: uids, Op: event.FlagsAdd, Flags: []string{`\Seen`}},
		&event.Copied{Account: acc, From: 1, UIDs: uids, To: 2, Move: true},
		&event.Expunged{Account: acc, Mailbox: 1, UIDs: uids},
		&event.MailboxDeleted{Account: acc, Name: "Köln"},
		&event.FailoverSet{At: at, Domain: "acme.test", Mode: "on", Who: "root"},
		&event.Audited{At: at, Who: "root", Act: "search", Detail: "{}", Count: 2},
		&event.KeysBackedUp{At: at},
		&event.Adopted{At: at, URL: sampleURL},
		&event.Posted{Topic: "notices", UUID: "1", Metadata: map[string]string{"b": "2", "a": "1"}, Payload: []byte("payload")},
		&event.CursorMoved{Group: "g", Topic: "notices", To: event.Position{Partition: 2, Seq: 1}},
		&event.UserRemoved{Address: "alice@acme.test"},
		&event.DomainRemoved{Domain: "acme.test"},
		&event.Kept{}, &event.Erased{}, // made elsewhere
		&event.DayCondemned{At: at, Day: 20_000}, &event.DayExpired{At: at, Day: 20_000},
		&event.RatchetMoved{At: at, To: 20_001}, &event.DayRemoved{At: at, Day: 20_000, Objects: 3, Bytes: 1000, Locked: 1},
		&event.ObjectsCondemned{At: at, Messages: []event.ID{{1}, {2}}},
		&event.HoldPlaced{At: at, Who: "root", Name: "case 7", Reason: "court", Match: event.HoldMatch{Domain: "acme.test", Since: 1}},
		&event.HoldReleased{At: at, Who: "root", Name: "case 7", Reason: "closed"},
		&event.ErasureOrdered{At: at, Who: "root", Reason: "asked by the sender", Items: []event.Ref{ref}},
		&event.TenantEndOrdered{At: at, Who: "root", Reason: "left", Name: "acme", Holds: 1},
		&event.TenantCondemned{}, &event.TenantEnded{}, // made elsewhere
		&event.BaseTaken{At: at, Projection: "shadow", Version: 1, Cursors: []event.BaseCursor{{Seq: 1}}, Size: 10, Chunks: 1},
		&event.DaySwept{At: at},
	}
	return slices.Clip(facts)
}
