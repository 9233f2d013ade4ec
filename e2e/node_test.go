package e2e

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/e2e/outside"
)

// TestDemo: the whole story in under a minute, on a machine that has nothing.
func TestDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(binaryVariable), "demo")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("demo: %v after %v\n%s", err, time.Since(start), out)
	}
	t.Logf("%v\n%s", time.Since(start).Round(time.Second), out)
}

// TestCalls: commands explain themselves and tell success, failure and wrong
// calls apart.
func TestCalls(t *testing.T) {
	s := prepare(t, setting{})
	commands := [][]string{
		{"serve"}, {"apply"}, {"status"}, {"failover"}, {"shadow", "search"}, {"redeliver"},
		{"log", "verify"}, {"export"}, {"keys", "backup"}, {"keys", "restore"}, {"demo"},
	}
	check := func(code int, args ...string) outside.Output {
		t.Helper()
		out, err := s.Run(t.Context(), nil, args...)
		if err != nil || out.Code != code {
			t.Errorf("holdfast %v: exit %d, %v: %s%s; want exit %d", args, out.Code, err, out.Stdout, out.Stderr, code)
		}
		return out
	}
	for _, c := range commands {
		if out := check(0, append(c, "--help")...); len(out.Stdout+out.Stderr) < 40 {
			t.Errorf("holdfast %v --help says %q", c, out.Stdout+out.Stderr)
		}
		check(2, append(c, "--no-such-flag")...)
	}
	check(2, "no-such-command")
	check(2, "failover", "perhaps", "acme.test")
	// Without a node, a command that needs one says so in one line.
	for _, c := range [][]string{{"status"}, {"shadow", "search"}, {"failover", "on", "acme.test"}} {
		if out := check(1, c...); strings.Count(strings.TrimSpace(out.Stderr), "\n") != 0 || out.Stderr == "" {
			t.Errorf("holdfast %v without a node says %q, want one line", c, out.Stderr)
		}
	}
}

// TestServes: readiness, the web port, repeated apply, and a quick goodbye.
func TestServes(t *testing.T) {
	s := open(t, setting{continuity: "always"})
	s.must("status")
	again, err := s.Apply(t.Context(), outside.Domain{Name: "acme.test", Primary: []string{s.primary.Addr()}, Outbound: s.world.Addr(),
		Continuity: "always", Users: outside.Acme("", "").Users})
	if err != nil {
		t.Error(err)
	}
	t.Logf("a second apply of the same says %q", again)

	s.send("sender@remote.example", "alice@acme.test", numbered("metric", 1))
	if _, err := outside.SendOne(t.Context(), s.SMTP, "sender@remote.example", []string{"nobody@acme.test"}, numbered("metric", 2)); outside.Code(err) != 550 {
		t.Errorf("mail to nobody: %v, want 550", err)
	}
	s.login("alice@acme.test", "correct horse")
	if _, err := outside.DialIMAP(t.Context(), s.IMAP, "alice@acme.test", "wrong"); err == nil {
		t.Error("a wrong password is let in")
	}
	s.awaitDrained(30 * time.Second)
	for _, path := range []string{"/healthz", "/readyz", "/"} {
		if code, body := get(t, "http://"+s.Web+path); code != 200 || body == "" && path == "/" {
			t.Errorf("%s answers %d with %d bytes", path, code, len(body))
		}
	}
	s.checkMetrics()

	start := time.Now()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	t.Logf("left %v after SIGTERM", time.Since(start).Round(time.Millisecond))
}

// checkMetrics: what the alert rules are written on is there, and names nobody.
func (s *scene) checkMetrics() {
	s.t.Helper()
	rules := string(readFile(s.t, "../deploy/alerts.yaml"))
	_, metrics := get(s.t, "http://"+s.Web+"/metrics")
	names := regexp.MustCompile(`holdfast_[a-z_]+`).FindAllString(rules, -1)
	names = append(names, "holdfast_smtp_accepted_total", "holdfast_segment_bytes", "holdfast_append_seconds_count")
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !strings.Contains(metrics, name) {
			s.t.Errorf("/metrics does not have %s", name)
		}
	}
	for _, want := range []string{
		`holdfast_upstream_state{domain="acme.test",state="up"} 1`,
		`holdfast_root_key_backed_up 0`,
		`holdfast_balance_difference{direction="in",domain="acme.test",kind="mail"} 0`,
		`holdfast_balance_strays 0`,
		`holdfast_domain_kept_messages{domain="acme.test",tenant="acme"} `,
		`holdfast_domain_under_hold_messages{domain="acme.test",tenant="acme"} 0`,
		`holdfast_under_hold_messages{tenant="acme"} 0`,
	} {
		if !strings.Contains(metrics, want) {
			s.t.Errorf("/metrics does not have %s", want)
		}
	}
	if strings.Contains(metrics, "alice") {
		s.t.Error("/metrics names a user")
	}
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}
