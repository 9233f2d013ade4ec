package outside

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake writes a program that stands in for the binary.
func fake(t *testing.T, script string) *Node {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "fake")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	n, err := NewNode(program, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Kill)
	return n
}

const wellBehaved = `case $1 in
serve) trap 'echo bye; exit 0' TERM; echo "holdfast is ready"; while :; do sleep 0.01; done;;
status) echo '{"domains":[{"name":"acme.test","state":"down","queued":7,"since":"2026-01-02T03:04:05Z"}]}';;
*) echo "called $*"; echo "cannot" >&2; exit 2;;
esac`

func TestNodeLife(t *testing.T) {
	n := fake(t, wellBehaved)
	for range 2 {
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.Launch(); err == nil {
			t.Error("a running node is started again")
		}
		if now, most, err := n.Resident(); err != nil || now == 0 || most < now {
			t.Errorf("resident memory %d, at most %d, %v", now, most, err)
		}
		if err := n.Stop(); err != nil || n.Running() {
			t.Errorf("stop: %v, running %v", err, n.Running())
		}
	}
	if got := strings.Count(n.Log(), "bye"); got != 2 {
		t.Errorf("the log says bye %d times, want 2: %q", got, n.Log())
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.Kill()
	if n.Running() || strings.Count(n.Log(), "bye") != 2 {
		t.Error("a killed node said goodbye")
	}
}

func TestNodeThatFails(t *testing.T) {
	tests := map[string]string{
		"ends at once":        `echo "not today"; exit 1`,
		"is ready and leaves": `trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done`,
	}
	for name, script := range tests {
		t.Run(name, func(t *testing.T) {
			n := fake(t, script)
			err := n.Start(t.Context())
			if name == "ends at once" {
				if err == nil || !strings.Contains(err.Error(), "not today") {
					t.Errorf("start: %v, want what the node said", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Stop(); err == nil {
				t.Error("leaving with 3 counts as success")
			}
		})
	}
}

func TestCommands(t *testing.T) {
	n := fake(t, wellBehaved)
	state, queued, err := n.Domain(t.Context(), "acme.test")
	if state != "down" || queued != 7 || err != nil {
		t.Errorf("status is %q, %d, %v", state, queued, err)
	}
	if _, _, err := n.Domain(t.Context(), "other.test"); err == nil {
		t.Error("a domain that is not listed has a state")
	}
	out, err := n.Run(t.Context(), nil, "apply", "x")
	if out.Code != 2 || out.Stderr != "cannot\n" || !strings.HasPrefix(out.Stdout, "called apply x -c ") || err != nil {
		t.Errorf("run gives %+v, %v", out, err)
	}
	if _, err := n.Must(t.Context(), "apply", "x"); err == nil {
		t.Error("exit 2 counts as success")
	}
	s, err := n.Status(t.Context())
	if err != nil || !s.Domains[0].Since.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("status is %+v, %v", s, err)
	}
}

// TestConfigIsTheContract holds the configuration that tests run with to the
// keys that users are promised.
func TestConfigIsTheContract(t *testing.T) {
	n := fake(t, "")
	text, err := os.ReadFile(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`data_dir = "./data"`, `url = "file:./bucket"`, `url = "file:./root.key"`, `url = "local:"`,
		`listen = ["` + n.SMTP + `"]`, `listen = ["` + n.IMAP + `"]`, `listen = "` + n.Web + `"`, `max_message_size = "64MiB"`} {
		if !strings.Contains(string(text), line) {
			t.Errorf("the configuration has no %s:\n%s", line, text)
		}
	}
	file := domainsFile([]Domain{Acme("127.0.0.1:2600", "127.0.0.1:2700")})
	for _, line := range []string{`primary = ["smtp://127.0.0.1:2600"]`, `outbound = "smtp://127.0.0.1:2700"`, `tenant = "acme"`,
		`continuity = "outage"`, `aliases = ["sales@acme.test"]`, `password = "correct horse"`, `probe_every = "1s"`} {
		if !strings.Contains(file, line) {
			t.Errorf("the domains file has no %s:\n%s", line, file)
		}
	}
}
