package directory

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"holdfast/event"
	"holdfast/projection"
)

// planner hashes by writing the password down.
func planner() *Planner {
	return &Planner{
		TenantID: func(name string) (event.Tenant, error) {
			return map[string]event.Tenant{"acme": acme, "beta": beta}[name], nil
		},
		Hash:    func(p string) string { return "hash of " + p },
		Matches: func(h, p string) bool { return h == "hash of "+p },
		CheckHash: func(h string) error {
			if !strings.HasPrefix(h, "hash of ") {
				return errors.New("is no hash")
			}
			return nil
		},
	}
}

func base() File {
	return File{
		Domains: []FileDomain{{
			Name: "Acme.test", Tenant: "acme", Primary: []string{"smtp://127.0.0.1:2600"}, Outbound: "smtp://127.0.0.1:2700",
			Continuity: "outage", ShadowDays: new(30), Recipients: "listed",
			Health: FileHealth{ProbeEvery: "1s", DownAfter: new(3), UpAfter: new(2)},
		}},
		Users: []FileUser{
			{Address: "alice@acme.test", Aliases: []string{"sales@acme.test"}, Password: "correct horse"},
			{Address: "bob@acme.test", PasswordHash: "hash of battery staple"},
		},
	}
}

// applied plans a file, appends the changes, and returns the texts.
func applied(t *testing.T, l *facts, st projection.Store, f File, prune bool) []string {
	t.Helper()
	d, _ := folded(t, st, l)
	changes, err := planner().Plan(d.Snapshot(), f, prune)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, c := range changes {
		l.add(c.Tenant, c.Fact)
		texts = append(texts, c.Text)
	}
	d, _ = folded(t, st, l)
	again, err := planner().Plan(d.Snapshot(), f, prune)
	if err != nil || len(again) != 0 {
		t.Errorf("the second time: %v %v", again, err)
	}
	return texts
}

func TestPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, st := new(facts), projection.NewMemStore()
		expect := func(step string, f File, prune bool, want ...string) {
			t.Helper()
			if got := applied(t, l, st, f, prune); !slices.Equal(got, want) {
				t.Errorf("%s:\ngot  %q\nwant %q", step, got, want)
			}
		}
		expect("first", base(), false,
			"tenant acme: created", "domain acme.test: claimed for acme", "domain acme.test: added",
			"user alice@acme.test: added", "user bob@acme.test: added")
		d, _ := folded(t, st, l)
		if dom, ok := d.Domain("acme.test"); !ok || dom.ShadowDays != 30 || dom.DownAfter != 3 || dom.ProbeEvery.String() != "1s" {
			t.Errorf("domain: %+v", dom)
		}
		alice, _ := d.User("alice@acme.test")
		if alice.PasswordHash != "hash of correct horse" {
			t.Errorf("password: %q", alice.PasswordHash)
		}

		f := base()
		f.Domains[0].Continuity, f.Domains[0].ShadowDays = "always", nil
		f.Domains[0].Health.ProbeEvery = ""
		f.Users[0].Password = "other"
		f.Users[1].PasswordHash = "" // stays
		expect("changes", f, false, "domain acme.test: changed continuity, health.probe_every", "user alice@acme.test: changed password")

		// The two exchange aliases.
		f.Users[0].Aliases, f.Users[1].Aliases = []string{"x@acme.test"}, []string{"sales@acme.test"}
		expect("alias moves", f, false, "user alice@acme.test: gives up aliases that go to others",
			"user alice@acme.test: changed aliases", "user bob@acme.test: changed aliases")
		f.Users[0].Aliases, f.Users[1].Aliases = f.Users[1].Aliases, f.Users[0].Aliases
		expect("aliases swap", f, false, "user alice@acme.test: gives up aliases that go to others", "user bob@acme.test: gives up aliases that go to others",
			"user alice@acme.test: changed aliases", "user bob@acme.test: changed aliases")

		// An alias becomes a user.
		f.Users[0].Aliases = nil
		f.Users = append(f.Users, FileUser{Address: "sales@acme.test"})
		expect("alias becomes user", f, false, "user alice@acme.test: gives up aliases that go to others",
			"user alice@acme.test: changed aliases", "user sales@acme.test: added")

		f.Users = f.Users[1:]
		expect("without prune nothing goes", f, false)
		expect("with prune", f, true, "user alice@acme.test: removed")
		f.Users = append(f.Users, base().Users[0])
		f.Users[2].Aliases = nil
		expect("listed again", f, true, "user alice@acme.test: added")
		d, _ = folded(t, st, l)
		if again, _ := d.User("alice@acme.test"); again.Account != alice.Account {
			t.Error("listed again with another mailbox")
		}
		expect("all goes", File{}, true, "user alice@acme.test: removed", "user bob@acme.test: removed", "user sales@acme.test: removed",
			"domain acme.test: removed", "domain acme.test: released")
		f.Domains[0].Tenant = "beta"
		expect("another tenant's then", f, true, "tenant beta: created", "domain acme.test: claimed for beta", "domain acme.test: added",
			"user bob@acme.test: added", "user sales@acme.test: added", "user alice@acme.test: added")
	})
}

func TestPlanRefuses(t *testing.T) {
	cases := map[string]struct {
		change func(f *File)
		field  string
	}{
		"domain name":         {func(f *File) { f.Domains[0].Name = "acme..test" }, "name"},
		"domain with umlaut":  {func(f *File) { f.Domains[0].Name = "ümlaut.test" }, "name"},
		"domain twice":        {func(f *File) { f.Domains = append(f.Domains, f.Domains[0]) }, "name"},
		"no tenant":           {func(f *File) { f.Domains[0].Tenant = "" }, "tenant"},
		"no primary":          {func(f *File) { f.Domains[0].Primary = nil }, "primary"},
		"primary scheme":      {func(f *File) { f.Domains[0].Primary[0] = "http://x" }, "primary"},
		"primary tls":         {func(f *File) { f.Domains[0].Primary[0] = "smtp://x?tls=yes" }, "primary"},
		"outbound":            {func(f *File) { f.Domains[0].Outbound = "x:25" }, "outbound"},
		"continuity":          {func(f *File) { f.Domains[0].Continuity = "sometimes" }, "continuity"},
		"shadow_days 0":       {func(f *File) { f.Domains[0].ShadowDays = new(0) }, "shadow_days"},
		"shadow_days 3651":    {func(f *File) { f.Domains[0].ShadowDays = new(3651) }, "shadow_days"},
		"recipients":          {func(f *File) { f.Domains[0].Recipients = "some" }, "recipients"},
		"probe_every":         {func(f *File) { f.Domains[0].Health.ProbeEvery = "1" }, "probe_every"},
		"down_after":          {func(f *File) { f.Domains[0].Health.DownAfter = new(0) }, "down_after"},
		"up_after":            {func(f *File) { f.Domains[0].Health.UpAfter = new(-1) }, "up_after"},
		"dot_timeout":         {func(f *File) { f.Domains[0].Health.DotTimeout = "1ms" }, "dot_timeout"},
		"address":             {func(f *File) { f.Users[0].Address = "alice" }, "address"},
		"address unquoted":    {func(f *File) { f.Users[0].Address = "al ice@acme.test" }, "address"},
		"address elsewhere":   {func(f *File) { f.Users[0].Address = "alice@other.test" }, "address"},
		"address twice":       {func(f *File) { f.Users[1].Address = `"ALICE"@acme.test` }, "address"},
		"alias is an address": {func(f *File) { f.Users[0].Aliases[0] = "bob@acme.test" }, "aliases"},
		"alias is its own":    {func(f *File) { f.Users[0].Aliases[0] = "Alice@acme.test" }, "aliases"},
		"alias twice":         {func(f *File) { f.Users[1].Aliases = []string{"sales@acme.test"} }, "aliases"},
		"alias elsewhere":     {func(f *File) { f.Users[1].Aliases = []string{"sales@other.test"} }, "aliases"},
		"two passwords":       {func(f *File) { f.Users[0].PasswordHash = "hash of x" }, "password"},
		"bad hash":            {func(f *File) { f.Users[1].PasswordHash = "x" }, "password_hash"},
	}
	empty := newTables().snapshot()
	for name, c := range cases {
		f := base()
		c.change(&f)
		changes, err := planner().Plan(empty, f, false)
		if !errors.Is(err, ErrFile) || changes != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !strings.Contains(err.Error(), c.field+": ") {
			t.Errorf("%s: the error does not name %s: %v", name, c.field, err)
		}
	}
}

func TestPlanRefusesWhatWouldNotHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, st := new(facts), projection.NewMemStore()
		applied(t, l, st, base(), false)
		d, _ := folded(t, st, l)
		f := base()
		f.Domains[0].Tenant = "beta"
		if _, err := planner().Plan(d.Snapshot(), f, true); !errors.Is(err, ErrFile) {
			t.Errorf("a domain of another tenant: %v", err)
		}
		f = base()
		f.Users = f.Users[1:]
		for _, alias := range []string{"alice@acme.test", "sales@acme.test"} {
			f.Users[0].Aliases = []string{alias}
			if _, err := planner().Plan(d.Snapshot(), f, false); !errors.Is(err, ErrFile) {
				t.Errorf("an alias that an unlisted user has: %v", err)
			}
			if _, err := planner().Plan(d.Snapshot(), f, true); err != nil {
				t.Errorf("with prune: %v", err)
			}
		}
	})
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	f := base()
	f.Domains[0].Continuity, f.Domains[0].Recipients, f.Users[0].Address = "x", "y", "z"
	_, err := planner().Plan(newTables().snapshot(), f, false)
	if n := len(strings.Split(fmt.Sprint(err), "\n")); n != 4 {
		t.Errorf("%d lines:\n%v", n, err)
	}
}

func TestParseUpstream(t *testing.T) {
	good := map[string]Upstream{
		"smtp://mail.acme.test":                   {"mail.acme.test", 25, "opportunistic"},
		"smtp://127.0.0.1:2600":                   {"127.0.0.1", 2600, "opportunistic"},
		"smtp://[::1]:2600/?tls=required":         {"::1", 2600, "required"},
		"smtp://mail.acme.test:587?tls=none":      {"mail.acme.test", 587, "none"},
		"smtp://MAIL.acme.test?tls=opportunistic": {"MAIL.acme.test", 25, "opportunistic"},
	}
	for s, want := range good {
		if got, err := ParseUpstream(s); err != nil || got != want {
			t.Errorf("%s: %+v %v", s, got, err)
		}
	}
	for _, s := range []string{"", "mail.acme.test:25", "smtps://x", "smtp://", "smtp://:25", "smtp://x:0", "smtp://x:65536",
		"smtp://x:y", "smtp://u:p@x", "smtp://x/path", "smtp://x#f", "smtp://x?tls=", "smtp://x?tls=none&tls=required", "smtp://x?a=b", "smtp://a b", "smtp://x?%zz"} {
		if got, err := ParseUpstream(s); err == nil {
			t.Errorf("%q: %+v", s, got)
		}
	}
}
