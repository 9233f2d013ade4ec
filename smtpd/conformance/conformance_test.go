package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/smtpd"
)

// keeper is a Backend and a Keeper. It takes mail for example.org, where
// "unknown" is nobody, and knows one user. Fault model: none.
type keeper struct {
	mu   sync.Mutex
	mail []Message
}

func (k *keeper) Settle(context.Context) error { return nil }

func (k *keeper) Messages() []Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]Message(nil), k.mail...)
}

func (k *keeper) Auth(_ context.Context, _ smtpd.Peer, _, user, password string) (smtpd.Login, error) {
	if user != "alice" || password != "secret" {
		return nil, smtpd.ErrBadCredentials
	}
	return user, nil
}

func (k *keeper) Begin(_ context.Context, _ smtpd.Peer, _ smtpd.Login, from smtpd.ReversePath, _ smtpd.MailParams) (smtpd.Transaction, error) {
	return &transaction{k: k, m: Message{From: from.Raw}}, nil
}

type transaction struct {
	k *keeper
	m Message
}

func (t *transaction) Rcpt(_ context.Context, to smtpd.ForwardPath, _ smtpd.RcptParams) error {
	switch {
	case to.Domain != "" && to.Domain != "example.org":
		return smtpd.ErrRelayDenied
	case to.Local == "unknown":
		return smtpd.ErrUnknownRecipient
	}
	t.m.To = append(t.m.To, to.Mailbox)
	return nil
}

func (t *transaction) Data(_ context.Context, body io.Reader) (string, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return "", fmt.Errorf("read body: %w", err)
	}
	t.m.Body = b
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	t.k.mail = append(t.k.mail, t.m)
	return fmt.Sprintf("%032d", len(t.k.mail)), nil
}

func (t *transaction) Close() {}

// listen returns a listener on loopback.
func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// serve starts a server of ours, with STARTTLS if there is a certificate, and
// returns its address.
func serve(t *testing.T, mode smtpd.Mode, k *keeper, config *tls.Config) string {
	t.Helper()
	limits := smtpd.DefaultLimits()
	limits.ConnectionsPerAddress = -1
	s, err := smtpd.New(smtpd.Config{
		Hostname: "mx.example", Mode: mode, TLS: func() *tls.Config { return config }, Limits: limits,
	}, k)
	if err != nil {
		t.Fatal(err)
	}
	ln := listen(t)
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, smtpd.ErrServerClosed) {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func certificate(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.example"}, DNSNames: []string{"mx.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// TestHoldfast holds the whole suite with our own server: every conversation
// passes, and every extension it speaks of is offered.
func TestHoldfast(t *testing.T) {
	k := &keeper{}
	config := certificate(t)
	target := Target{
		Addr: serve(t, smtpd.MX, k, config), Submission: serve(t, smtpd.Submission, k, config),
		Rcpt: "*@example.org", Unknown: "unknown@example.org", User: "alice", Password: "secret", Kept: k,
		// Ours answers at once; what takes longer is this machine.
		Timeout: time.Minute,
	}
	results, err := Run(t.Context(), target, load(t), Options{Parallel: 32})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Verdict != Passes {
			t.Errorf("conversations/%s.smtp:%d: %s: %s: %s", r.File, r.Line, r.Name, r.Verdict, r.Detail)
		}
		if r.Unseen {
			t.Errorf("%s: nobody looked at what was kept", r.Group())
		}
	}
}

func load(t *testing.T) []Conversation {
	t.Helper()
	all, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSuite checks the suite itself.
func TestSuite(t *testing.T) {
	all := load(t)
	if len(all) < 300 {
		t.Errorf("%d conversations", len(all))
	}
	names := map[string]bool{}
	perRFC := map[int]int{}
	for _, c := range all {
		if names[c.Group()] {
			t.Errorf("%s:%d: the name %q is taken", c.File, c.Line, c.Name)
		}
		names[c.Group()] = true
		perRFC[c.RFC()]++
		if c.Level == Choice && c.Why == "" {
			t.Errorf("%s:%d: a choice without a reason", c.File, c.Line)
		}
		if strings.Contains(c.Name, "$") {
			t.Errorf("%s:%d: %q lacks a column", c.File, c.Line, c.Name)
		}
		for _, e := range c.endings {
			for _, s := range append(append(append([]step(nil), c.steps...), e.steps...), e.kept...) {
				if s.verb == ">>" || s.verb == "kept" || s.verb == "whole" {
					if _, err := repeated(s.arg); err != nil {
						t.Errorf("%s:%d: %v", c.File, s.line, err)
					}
				}
			}
		}
	}
	for _, rfc := range []int{5321, 1870, 2920, 3030, 3207, 3461, 4954, 6152, 6531, 2034} {
		if perRFC[rfc] == 0 {
			t.Errorf("nothing about RFC %d", rfc)
		}
	}
	t.Logf("%d conversations, by RFC: %v", len(all), perRFC)
}
