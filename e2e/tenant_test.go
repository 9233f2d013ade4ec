package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/e2e/outside"
)

// TestATenantEnds: a tenant that is ended is gone for good, with a certificate; the
// other one notices nothing, also where everything but the bucket and the key is
// lost; and a later tenant of the same name has nothing of the first.
func TestATenantEnds(t *testing.T) {
	t.Parallel()
	a := newAging(t, false)
	acme := outside.Acme(a.primary.Addr(), a.world.Addr())
	acme.Continuity, acme.ShadowDays = "always", 1
	plover := outside.Domain{
		Name: "plover.test", Primary: acme.Primary, Continuity: "always",
		Users: []outside.User{{Address: "pat@plover.test", Password: "tall grass"}},
	}
	apply := func(domains ...outside.Domain) {
		t.Helper()
		if _, err := a.Apply(t.Context(), domains...); err != nil {
			t.Fatal(err)
		}
		a.must("apply", filepath.Join(a.Dir, "domains.toml"), "--prune")
	}
	apply(acme, plover)
	a.post("filed", "alice@acme.test", 100)
	a.post("large", "pat@plover.test", 700_000)
	a.post("small", "pat@plover.test", 100)
	a.awaitDrained(30 * time.Second)
	a.file()
	a.uids = a.inboxes()

	a.refused("--prune", "tenant", "end", "plover", "--reason", "R", "--yes")
	apply(acme)
	if out := a.must("tenant", "end", "plover", "--reason", "left", "--dry-run"); !strings.Contains(out, "2 messages") {
		t.Errorf("the dry run says %q", out)
	}
	cert := filepath.Join(t.TempDir(), "certificate")
	a.must("tenant", "end", "plover", "--reason", "left", "--yes", "-o", cert)
	key := strings.TrimSpace(a.must("keys", "public"))
	out, err := exec.CommandContext(t.Context(), a.Binary, "log", "check", cert, "--key", key).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "left") {
		t.Errorf("the certificate: %v\n%s", err, out)
	}

	ended := func(left ...string) {
		t.Helper()
		var want, got []string
		for _, what := range left {
			want = append(want, a.mark[what])
		}
		for _, row := range a.search() {
			got = append(got, row.Subject)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%v are found, not %v", got, want)
		}
		a.stays("filed")
		for _, what := range []string{"large", "small"} {
			if out, err := a.Run(t.Context(), nil, "export", a.id[what], "-o", t.TempDir()); err != nil || out.Code == 0 {
				t.Errorf("%s is exported: %+v, %v", what, out, err)
			}
		}
		if out := a.must("log", "verify"); !strings.Contains(out, "of tenants that have ended") || !strings.Contains(out, "the log is whole") {
			t.Errorf("log verify says %q", out)
		}
	}
	ended("filed")
	for key := range a.objects("blob/") {
		t.Errorf("%s is still there", key)
	}

	// A later tenant of the name has its mail at once.
	apply(acme, plover)
	anew := func(what string) {
		t.Helper()
		a.post(what, "pat@plover.test", 100)
		a.eventually(30*time.Second, func() error {
			rows := a.search("--rcpt", "pat@plover.test")
			if i := slices.IndexFunc(rows, func(f found) bool { return f.ID == a.id[what] }); i < 0 || !slices.Equal(rows[i].State, []string{"delivered"}) {
				return fmt.Errorf("of the new tenant there is %+v", rows)
			}
			return nil
		})
		a.once([]byte(a.mark[what] + "@remote.example>\r\n"))
	}
	anew("anew")
	ended("filed", "anew")
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(a.DataDir()); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended("filed", "anew")
	anew("later")
	ended("filed", "anew", "later")
	a.must("log", "verify")
}
