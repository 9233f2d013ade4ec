package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestClockForTests: it is refused unless the configuration allows it, moves the
// time at which mail is received, and says everywhere that it is on.
func TestClockForTests(t *testing.T) {
	s := open(t, setting{})
	s.Clock = 49 * time.Hour
	out, err := s.Run(t.Context(), nil, "status")
	if err != nil || out.Code != 1 || !strings.Contains(out.Stderr, "test_clock") {
		t.Errorf("moved without leave: exit %d, %v: %q, want 1 and what to do", out.Code, err, out.Stderr)
	}

	s = open(t, setting{clock: true})
	if strings.Contains(s.must("status"), "test clock") {
		t.Error("it is said to be on, and is not")
	}
	s.Clock = 49 * time.Hour
	s.restart()
	s.send("sender@remote.example", "alice@acme.test", numbered("later", 1))
	rows := s.search("--since", "1h")
	if len(rows) != 1 || time.Until(rows[0].Received) < 48*time.Hour {
		t.Errorf("received: %v", rows)
	}
	_, metrics := get(t, "http://"+s.Web+"/metrics")
	_, page := get(t, "http://"+s.Web+"/")
	for where, text := range map[string]string{
		"status": s.must("status"), "status --json": s.must("status", "--json"), "the status page": page, "the node's log": s.LastLog(),
	} {
		if !strings.Contains(text, "the test clock is on") {
			t.Errorf("%s does not say that the test clock is on", where)
		}
	}
	if !strings.Contains(metrics, "\nholdfast_test_clock_seconds 176400\n") {
		t.Error("/metrics does not say by how much the clock is moved")
	}
	s.must("log", "verify")
}
