package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/e2e/outside"
	"holdfast/smtpd/conformance"
)

// TestConformance holds the whole SMTP suite with a node: what it says, and what
// its primary then gets.
func TestConformance(t *testing.T) {
	s := prepare(t, setting{})
	config := strings.Replace(string(readFile(t, s.Config)), "allow_plaintext_auth = true", "allow_plaintext_auth = false", 1)
	cert, key := certificate(t)
	writeFile(t, s.Config, config+fmt.Sprintf("\n[tls]\ncert = %q\nkey = %q\n", cert, key))
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	domain := outside.Acme(s.primary.Addr(), s.world.Addr())
	domain.Continuity, domain.Recipients = "always", "any"
	if _, err := s.Apply(t.Context(), domain); err != nil {
		t.Fatal(err)
	}
	s.awaitState("up", 15*time.Second)
	all, err := conformance.Load()
	if err != nil {
		t.Fatal(err)
	}
	results, err := conformance.Run(t.Context(), conformance.Target{
		Addr: s.SMTP, Submission: s.Submission, Rcpt: "*@acme.test", From: "alice@acme.test", User: "alice@acme.test", Password: "correct horse",
		Kept: primaryKeeper{s}, Timeout: time.Minute,
	}, all, conformance.Options{})
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for _, r := range results {
		switch {
		case r.Verdict == conformance.Passes:
			passed++
		case r.Verdict == conformance.NotOffered && r.Detail == "unknown":
			// The domain takes any recipient.
		case r.Verdict == conformance.Differs && r.Level == conformance.Choice && strings.HasPrefix(r.Detail, "kept "):
			// The log has the octets as they came; the primary gets bare line ends
			// as CRLF, because SMTP cannot carry them.
		default:
			t.Errorf("conversations/%s.smtp:%d: %s: %s: %s", r.File, r.Line, r.Name, r.Verdict, r.Detail)
		}
	}
	if passed < 800 {
		t.Errorf("only %d of %d passed", passed, len(results))
	}
}

// primaryKeeper sees what the primary got.
type primaryKeeper struct{ s *scene }

// Settle waits until the node has delivered all.
func (p primaryKeeper) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, queued, err := p.s.Domain(ctx, "acme.test")
		switch {
		case err == nil && queued == 0:
			return nil
		case ctx.Err() != nil:
			return errors.Join(ctx.Err(), fmt.Errorf("%d messages are still in the queue: %w", queued, err))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (p primaryKeeper) Messages() []conformance.Message {
	var all []conformance.Message
	for _, tx := range p.s.primary.Transactions() {
		m := conformance.Message{From: tx.From, Body: tx.Body}
		for _, r := range tx.Recipients {
			m.To = append(m.To, r.To)
		}
		all = append(all, m)
	}
	return all
}

// certificate returns the files of a certificate signed by itself.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.holdfast.test"}, DNSNames: []string{"mx.holdfast.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	return cert, key
}
