package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast/crypto"
	"holdfast/directory"
	"holdfast/event"
)

// FuzzConfig reads any text as a configuration. What is accepted can be used
// without a further look, and says the same when it is checked again.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"", "data_dir = 'd'\nhostname = 'mx.acme.example'\nroles = ['smtp']\n[store]\nurl = 's3://k:s@h:9000/b'\npartitions = 4\n",
		"[smtp]\nlisten = ['127.0.0.1:25', '[::1]:25']\nmax_message_size = '10MiB'\nallow_sources = ['192.0.2.0/24', '::/0']\n",
		"[smtp]\nmax_message_size = '99999999999999999999GiB'\n", "[smtp]\nmax_message_size = '-1'\n",
		"[delivery]\ndot_timeout = '1e9h'\n", "[tls]\ncert = 'a'\nkey = 'b'\n", "[a.b.c]\nd = [[[[]]]]\n", "hostname = \"\\u0000\"\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := DefaultConfig()
		if err := c.parse(text); err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Errorf("the error is %v, want ErrConfig", err)
			}
			return
		}
		again := c
		if err := again.check(); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("checked again: %v", err)
		}
		if strings.ContainsAny(c.Hostname, " \t\r\n<>") || c.Hostname == "" || c.SMTP.MaxMessageSize <= 0 {
			t.Errorf("%+v", c)
		}
		for _, l := range c.listeners() {
			if _, _, err := net.SplitHostPort(l.addr); err != nil {
				t.Error(err)
			}
		}
		for _, s := range c.SMTP.AllowSources {
			netip.MustParsePrefix(s)
		}
		if d := c.Delivery.DotTimeout; d != "" {
			if v, err := time.ParseDuration(d); err != nil || v <= 0 {
				t.Errorf("dot_timeout %q: %v, %v", d, v, err)
			}
		}
	})
}

// FuzzDomains reads any text as a file of domains and users. It is refused, or
// becomes changes all of which can be written down as events.
func FuzzDomains(f *testing.F) {
	for _, text := range []string{
		"[[domain]]\nname = 'acme.test'\ntenant = 'acme'\nprimary = ['smtp://127.0.0.1:2600']\noutbound = 'smtp://127.0.0.1:2700'\n" +
			"continuity = 'outage'\nshadow_days = 30\nrecipients = 'listed'\n[domain.health]\nprobe_every = '1s'\ndown_after = 3\nup_after = 2\n" +
			"[[user]]\naddress = 'alice@acme.test'\naliases = ['sales@acme.test']\npassword = 'correct horse'\n[[user]]\naddress = 'bob@acme.test'\n",
		"", "[[domain]]\nname = 'acme.test'\ntenant = 'acme'\nprimary = ['smtp://h']\n",
		"[[domain]]\nname = 'a.test'\ntenant = 't'\nprimary = ['smtp://h:99999?tls=x#y']\nshadow_days = -1\n",
		"[[user]]\naddress = '\"a b\"@acme.test'\naliases = ['a@b', 'A@B']\npassword = 'x'\n",
	} {
		f.Add(text)
	}
	keys := crypto.MemoryRoot(20000)
	p := &directory.Planner{
		TenantID:  func(name string) (event.Tenant, error) { return keys.TenantID(context.Background(), name) },
		Hash:      func(p string) string { return "hash of " + p },
		Matches:   func(h, p string) bool { return h == "hash of "+p },
		CheckHash: func(string) error { return nil },
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := parseDomains(text)
		if err != nil {
			return
		}
		changes, err := p.Plan(directory.New().Snapshot(), file, true)
		if err != nil {
			if !errors.Is(err, directory.ErrFile) {
				t.Errorf("the error is %v, want ErrFile", err)
			}
			return
		}
		for _, c := range changes {
			state, meta := event.Encode(c.Fact)
			back, err := event.Decode(state, meta)
			if err != nil || !reflect.DeepEqual(back, c.Fact) {
				t.Errorf("%+v reads back as %+v, %v", c.Fact, back, err)
			}
		}
	})
}
