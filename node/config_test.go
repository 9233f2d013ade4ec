package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
)

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "holdfast.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(path)
}

func TestEveryKeyHasADefault(t *testing.T) {
	c, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	d := DefaultConfig()
	if c.DataDir != d.DataDir || c.Store.URL != "file:./bucket" || c.SMTP.MaxMessageSize != 64<<20 || !c.Has(RoleDeliver) {
		t.Errorf("an empty file gives %+v", c)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"hostnam = 'x'":                            "hostnam",
		"[smtp]\nlisten = ['nowhere']":             "smtp.listen",
		"[smtp]\nmax_message_size = '3 apples'":    "64MiB",
		"[smtp]\nmax_message_size = '1KiB'":        "smtp.max_message_size",
		"roles = ['smtp', 'cook']":                 "cook",
		"[bus]\nurl = 'nats://127.0.0.1:4222'":     "not yet",
		"[keys]\nurl = 'vault:transit'":            "not yet",
		"[log]\nlevel = 'loud'":                    "log.level",
		"[tls]\ncert = 'x.pem'":                    "tls",
		"[delivery]\ndot_timeout = '1'":            "delivery.dot_timeout",
		"[smtp]\nallow_sources = ['192.0.2.1/99']": "smtp.allow_sources",
		"hostname = 'a b'":                         "hostname",
	} {
		_, err := load(t, text)
		if err == nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error that names %q", text, err, want)
		}
	}
}

func TestTheTestClockIsOnOnlyWhereAskedForTwice(t *testing.T) {
	t.Setenv(testClock, "+49h")
	if _, err := load(t, ""); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "test_clock") {
		t.Errorf("%s without test_clock: %v, want an error that names it", testClock, err)
	}
	if c, err := load(t, "test_clock = true"); err != nil || c.Shift != 49*time.Hour {
		t.Errorf("shift %v, %v; want 49h", c.Shift, err)
	}
	for _, by := range []string{"-49h", "0s", "49", "tomorrow", "200000h"} {
		t.Setenv(testClock, by)
		if _, err := load(t, "test_clock = true"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "+49h") {
			t.Errorf("%s=%s: %v, want an error that shows how it is written", testClock, by, err)
		}
	}
	t.Setenv(testClock, "")
	if c, err := load(t, "test_clock = true"); err != nil || c.Shift != 0 {
		t.Errorf("without %s: shift %v, %v", testClock, c.Shift, err)
	}
}

func TestSessionsOfADomainThatIsBackGetTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		e := newEvictor()
		g := e.enter("acme.test", event.Account{1})
		open := make(chan bool, 1)
		open <- true
		admits := func(context.Context, string) (bool, error) {
			v := <-open
			open <- v
			return v, nil
		}
		set := func(v bool) { <-open; open <- v }
		ended := make(chan struct{})
		go func() { e.run(ctx, admits, func(event.Account) bool { return true }); close(ended) }()
		out := func() bool {
			synctest.Wait()
			select {
			case <-g.out:
				return true
			default:
				return false
			}
		}
		set(false)
		time.Sleep(9 * time.Minute)
		set(true) // down again: the clock starts anew
		time.Sleep(time.Hour)
		set(false)
		time.Sleep(farewell - 2*time.Second)
		if out() {
			t.Error("sent away too early")
		}
		time.Sleep(5 * time.Second)
		if !out() {
			t.Error("not sent away after ten minutes")
		}
		e.leave(g)
		cancel()
		<-ended
	})
}

func TestSessionsOfARemovedUserEndAtOnce(t *testing.T) {
	e := newEvictor()
	removed, other := e.enter("acme.test", event.Account{1}), e.enter("acme.test", event.Account{2})
	e.look(t.Context(),
		func(context.Context, string) (bool, error) { return true, nil },
		func(a event.Account) bool { return a == event.Account{2} })
	select {
	case <-removed.out:
	default:
		t.Error("a removed user may stay")
	}
	select {
	case <-other.out:
		t.Error("a user who is listed was sent away")
	default:
	}
	e.leave(removed) // as the session does in the end
}
