package directory

import (
	"context"
	"crypto/sha256"
	"iter"
	"slices"
	"testing"
	"testing/synctest"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

var (
	acme = event.Tenant{0xa}
	beta = event.Tenant{0xb}
	sys  = event.SystemTenant
)

// facts is a log of three partitions: the system's, acme's and beta's. It is
// complete before it is read.
type facts [3][]*eventlog.Segment

func (l *facts) add(t event.Tenant, fs ...event.Fact) event.Position {
	p := event.Partition(map[event.Tenant]int{sys: 0, acme: 1, beta: 2}[t])
	seg := &eventlog.Segment{Partition: p, Seq: event.Seq(len(l[p]) + 1)}
	if n := len(l[p]); n > 0 {
		seg.Prev = l[p][n-1].Hash
	}
	for i, f := range fs {
		seg.Events = append(seg.Events, eventlog.Recorded{
			Ref:    event.Ref{Position: event.Position{Partition: p, Seq: seg.Seq, Index: uint32(i)}, ID: event.NewID()},
			Tenant: t, Class: f.Class(), Fact: f,
		})
	}
	seg.Hash = sha256.Sum256(append(seg.Prev[:], byte(p), byte(seg.Seq)))
	l[p] = append(l[p], seg)
	return event.Position{Partition: p, Seq: seg.Seq}
}

func (l *facts) Partitions() int { return len(l) }

func (l *facts) Segments(_ context.Context, p event.Partition, after eventlog.Cursor) iter.Seq2[*eventlog.Segment, error] {
	return func(yield func(*eventlog.Segment, error) bool) {
		for _, s := range l[p] {
			if s.Seq > after.Seq && !yield(s, nil) {
				return
			}
		}
	}
}

func (l *facts) Wait(ctx context.Context, _ event.Partition, _ event.Seq) error {
	<-ctx.Done()
	return ctx.Err()
}

func (l *facts) TailAtLeast(p event.Partition) event.Seq { return event.Seq(len(l[p])) }

func (l *facts) LocalSealer(context.Context, event.Tenant, event.Day) (*crypto.LocalSealer, error) {
	return nil, crypto.ErrExpired
}

// folded returns the directory after it has folded l into st, and the state's
// hash.
func folded(t *testing.T, st projection.Store, l *facts) (*Directory, [32]byte) {
	t.Helper()
	r, err := projection.Open(projection.Options{Store: st, Source: l})
	if err != nil {
		t.Fatal(err)
	}
	d := New()
	if err := r.Add(d.Projection(), d.Observe); err != nil {
		t.Fatal(err)
	}
	if err := d.Load(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	if err := r.CaughtUp(t.Context(), Name); err != nil {
		t.Fatal(err)
	}
	h, err := r.Hash(t.Context(), Name)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return d, h
}

func settings(domain, recipients string) *event.DomainSet {
	return &event.DomainSet{Domain: domain, Primary: []string{"smtp://127.0.0.1:25"}, Continuity: "outage",
		ShadowDays: 30, Recipients: recipients, ProbeEvery: 1000, DownAfter: 3, UpAfter: 2}
}

// standard is a log with two tenants, who quarrel over domains.
func standard() *facts {
	l := new(facts)
	l.add(acme, &event.TenantCreated{Name: "acme"})
	l.add(beta, &event.TenantCreated{Name: "beta"})
	l.add(sys,
		&event.DomainClaimed{Domain: "acme.test", Tenant: acme},
		&event.DomainClaimed{Domain: "acme.test", Tenant: beta}, // lost
		&event.DomainClaimed{Domain: "beta.test", Tenant: beta},
		&event.DomainClaimed{Domain: "moved.test", Tenant: acme},
		&event.DomainClaimed{Domain: "moved.test", Tenant: beta, Release: true}, // not beta's
		&event.DomainClaimed{Domain: "moved.test", Tenant: acme, Release: true},
		&event.DomainClaimed{Domain: "moved.test", Tenant: beta},
		&event.DomainClaimed{Domain: "empty.test", Tenant: acme}, // without settings
		&event.KeysBackedUp{At: 7})
	l.add(beta, settings("acme.test", "any"), settings("beta.test", "any"), settings("moved.test", "listed"),
		&event.FailoverSet{Domain: "acme.test", Mode: "on"},
		&event.UserSet{Account: event.Account{9}, Address: "alice@acme.test"},
		&event.UserSet{Account: event.Account{8}, Address: "bernd@beta.test"},
		&event.DomainClaimed{Domain: "stolen.test", Tenant: beta}, settings("stolen.test", "any"))
	l.add(acme, settings("acme.test", "listed"),
		&event.UserSet{Account: event.Account{1}, Address: "Alice@acme.test", Aliases: []string{"sales@acme.test", "info@acme.test"}, Password: "h1"},
		&event.UserSet{Account: event.Account{2}, Address: `"b ob"@acme.test`, Aliases: []string{"SALES@acme.test", "bob@acme.test", "bob@acme.test"}},
		&event.UserSet{Account: event.Account{3}, Address: "carol@acme.test", Aliases: []string{"alice@acme.test"}})
	return l
}

func TestDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := folded(t, projection.NewMemStore(), standard())
		var names []string
		for _, dom := range d.Domains() {
			names = append(names, dom.Name)
		}
		if want := []string{"acme.test", "beta.test", "moved.test"}; !slices.Equal(names, want) {
			t.Errorf("domains %v, want %v", names, want)
		}
		if dom, ok := d.Domain("ACME.test"); !ok || dom.Tenant != acme || dom.Recipients != RecipientsListed || dom.Failover != FailoverAuto {
			t.Errorf("acme.test: %+v %v", dom, ok)
		}
		if dom, ok := d.Domain("moved.test"); !ok || dom.Tenant != beta {
			t.Errorf("moved.test: %+v %v", dom, ok)
		}
		alice, ok := d.User("ALICE@ACME.test")
		if !ok || alice.Account != (event.Account{1}) || alice.PasswordHash != "h1" || !slices.Equal(alice.Aliases, []string{"sales@acme.test", "info@acme.test"}) {
			t.Errorf("alice: %+v", alice)
		}
		if bob, ok := d.ByAccount(event.Account{2}); !ok || !slices.Equal(bob.Aliases, []string{"bob@acme.test"}) {
			t.Errorf("bob keeps only what was free: %+v", bob)
		}
		if carol, ok := d.User("carol@acme.test"); !ok || len(carol.Aliases) != 0 {
			t.Errorf("carol: %+v", carol)
		}
		for address, want := range map[string]bool{
			"alice@acme.test": true, `"Alice"@acme.test`: true, "Sales@Acme.Test": true, "bob@acme.test": false, "nonsense": false,
		} {
			if alice.Owns(address) != want {
				t.Errorf("alice owns %s: %v", address, !want)
			}
		}
		if _, ok := d.User("sales@acme.test"); ok {
			t.Error("an alias is a login name")
		}
		if at := d.Snapshot().BackedUp(); at != 7 {
			t.Errorf("backed up at %d", at)
		}
		if n, ok := d.Snapshot().TenantName(acme); n != "acme" || !ok {
			t.Errorf("tenant name %q", n)
		}
	})
}

func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := folded(t, projection.NewMemStore(), standard())
		alice := Resolution{Domain: "acme.test", Tenant: acme, Account: event.Account{1}, User: "Alice@acme.test", Listed: true}
		aliceAlias := alice
		aliceAlias.Alias = true
		bob := Resolution{Domain: "acme.test", Tenant: acme, Account: event.Account{2}, User: `"b ob"@acme.test`, Listed: true}
		cases := []struct {
			local, domain string
			want          Resolution
			ok            bool
		}{
			{"alice", "acme.test", alice, true},
			{"ALICE", "ACME.TEST", alice, true},
			{"sales", "acme.test", aliceAlias, true},
			{"b ob", "acme.test", bob, true},
			{"nobody", "acme.test", Resolution{Domain: "acme.test", Tenant: acme}, false},
			{"", "acme.test", Resolution{Domain: "acme.test", Tenant: acme}, false},
			{"Postmaster", "acme.test", Resolution{Domain: "acme.test", Tenant: acme}, true},
			{"postmaster", "", Resolution{Domain: "acme.test", Tenant: acme}, true},
			{"alice", "", Resolution{}, false},
			{"anybody", "beta.test", Resolution{Domain: "beta.test", Tenant: beta}, true},
			{"bernd", "beta.test", Resolution{Domain: "beta.test", Tenant: beta, Account: event.Account{8}, User: "bernd@beta.test", Listed: true}, true},
			{"alice", "elsewhere.test", Resolution{}, false},
			{"alice", "empty.test", Resolution{}, false},
			{"postmaster", "stolen.test", Resolution{}, false},
		}
		for _, c := range cases {
			if got, ok := d.Resolve(c.local, c.domain); ok != c.ok || got != c.want {
				t.Errorf("%s@%s: %+v %v, want %+v %v", c.local, c.domain, got, ok, c.want, c.ok)
			}
		}
	})
}

func TestListedPostmasterGetsHisMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := standard()
		l.add(beta, &event.UserSet{Account: event.Account{7}, Address: "root@moved.test", Aliases: []string{"postmaster@moved.test"}})
		d, _ := folded(t, projection.NewMemStore(), l)
		for _, domain := range []string{"moved.test", ""} {
			if r, ok := d.Resolve("POSTMASTER", domain); !ok || r.Account != (event.Account{7}) || !r.Alias || r.Domain != "moved.test" {
				t.Errorf("postmaster@%s: %+v %v", domain, r, ok)
			}
		}
	})
}

func TestUsersOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := standard()
		l.add(acme,
			// Set again: the account stays, aliases are replaced and free again.
			&event.UserSet{Account: event.Account{77}, Address: "alice@acme.test", Aliases: []string{"info@acme.test"}, Password: "h2"},
			&event.UserSet{Account: event.Account{3}, Address: "carol@acme.test", Aliases: []string{"sales@acme.test"}},
			// An address of its own weighs more than an alias.
			&event.UserSet{Account: event.Account{4}, Address: "bob@acme.test"},
			// Removed and listed again: the mailbox is still there.
			&event.UserSet{Account: event.Account{5}, Address: "dora@acme.test", Aliases: []string{"d@acme.test"}, Password: "h"},
			&event.UserRemoved{Address: "dora@acme.test"},
			&event.UserRemoved{Address: "dora@acme.test"},
			&event.UserSet{Account: event.Account{6}, Address: "d@acme.test"},
			&event.UserSet{Account: event.Account{55}, Address: "Dora@acme.test", Aliases: []string{"d@acme.test"}},
			&event.UserSet{Account: event.Account{56}, Address: "no address"},
			&event.UserSet{Account: event.Account{57}, Address: "erna@acme.test"},
			&event.UserRemoved{Address: "erna@acme.test"})
		d, _ := folded(t, projection.NewMemStore(), l)
		want := map[string]struct {
			account event.Account
			aliases []string
		}{
			"alice@acme.test":  {event.Account{1}, []string{"info@acme.test"}},
			`"b ob"@acme.test`: {event.Account{2}, nil},
			"carol@acme.test":  {event.Account{3}, []string{"sales@acme.test"}},
			"bob@acme.test":    {event.Account{4}, nil},
			"d@acme.test":      {event.Account{6}, nil},
			"Dora@acme.test":   {event.Account{5}, nil},
		}
		users := d.Snapshot().Users(acme)
		for _, u := range users {
			w, ok := want[u.Address]
			if !ok || u.Account != w.account || !slices.Equal(u.Aliases, w.aliases) {
				t.Errorf("%s: account %v aliases %v", u.Address, u.Account, u.Aliases)
			}
		}
		if len(users) != len(want) {
			t.Errorf("%d users, want %d", len(users), len(want))
		}
		if _, ok := d.ByAccount(event.Account{57}); ok {
			t.Error("a removed user is there")
		}
	})
}

// TestOrderBetweenPartitionsDoesNotMatter folds the same log with the partitions
// in every order, live and after a restart.
func TestOrderBetweenPartitionsDoesNotMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := standard()
		_, want := folded(t, projection.NewMemStore(), full)
		for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			st := projection.NewMemStore()
			l := new(facts)
			var d *Directory
			var got [32]byte
			for _, p := range order {
				for _, seg := range full[p] {
					l[p] = append(l[p], seg)
					d, got = folded(t, st, l) // restarts for every segment
				}
			}
			if got != want {
				t.Errorf("order %v: other state", order)
			}
			if _, ok := d.User("alice@acme.test"); !ok || len(d.Domains()) != 3 {
				t.Errorf("order %v: %d domains", order, len(d.Domains()))
			}
		}
	})
}

func TestVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []any
		r, err := projection.Open(projection.Options{Store: projection.NewMemStore(), Source: standard()})
		if err != nil {
			t.Fatal(err)
		}
		err = r.Add(New().Projection(), func(es []projection.Emission) {
			for _, e := range es {
				switch v := e.Value.(type) {
				case Claimed:
					got = append(got, v)
				case Stored:
					if v.Account == (event.Account{2}) {
						got = append(got, v.Account, v.OK, slices.Clone(v.Refused)[0], len(v.Refused))
					}
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		if err := r.CaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		<-done
		want := []any{
			Claimed{"acme.test", acme, true}, Claimed{"acme.test", acme, false}, Claimed{"beta.test", beta, true},
			Claimed{"moved.test", acme, true}, Claimed{"moved.test", acme, false}, Claimed{"moved.test", event.Tenant{}, true},
			Claimed{"moved.test", beta, true}, Claimed{"empty.test", acme, true},
			event.Account{2}, true, "SALES@acme.test", 2,
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

func TestAdmit(t *testing.T) {
	for _, c := range []struct {
		c              Continuity
		f              Failover
		up, down, back bool
	}{
		{ContinuityOutage, FailoverAuto, false, true, true},
		{ContinuityOutage, FailoverOn, true, true, true},
		{ContinuityOutage, FailoverOff, false, false, false},
		{ContinuityAlways, FailoverAuto, true, true, true},
		{ContinuityAlways, FailoverOn, true, true, true},
		{ContinuityAlways, FailoverOff, false, false, false},
		{ContinuityOff, FailoverAuto, false, false, false},
		{ContinuityOff, FailoverOn, false, false, false},
		{ContinuityOff, FailoverOff, false, false, false},
	} {
		for h, want := range map[event.Health]bool{
			event.HealthUp: c.up, event.HealthSuspect: c.up, event.HealthDown: c.down, event.HealthRecovering: c.back, 0: c.up,
		} {
			if got := Admit(c.c, c.f, h); got != want {
				t.Errorf("%s, failover %s, primary %v: %v", c.c, c.f, h, got)
			}
		}
	}
}

func FuzzSplitAddress(f *testing.F) {
	for _, s := range []string{"a@b", `"a b"@C`, `"a\"b"@c`, `"a@b"@c`, "@", "a@", `"@b`, "\xff\xfe@b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		local, domain, ok := SplitAddress(s)
		if !ok {
			return
		}
		if domain == "" || domain != asciiLower(domain) {
			t.Errorf("domain %q", domain)
		}
		k, ok := addressKey(s)
		if !ok || k != joinKey(local, domain) {
			t.Errorf("key %q", k)
		}
	})
}
