package smtpd

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// testTLS returns a server's configuration with a certificate of its own.
func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.example"}, DNSNames: []string{"mx.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// TestTLSFromTheFirstByte serves a connection that a TLS listener has accepted
// (RFC 8314 §3.3).
func TestTLSFromTheFirstByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		config := testTLS(t)
		_, ln, stop := newServer(t, Config{Mode: Submission, TLS: func() *tls.Config { return config }}, m)
		raw, server := newSimPair("192.0.2.1:1", "192.0.2.25:465")
		ln.conns <- tls.Server(server, config)
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		in := bufio.NewReader(c)
		expect(t, in, "220")
		fmt.Fprint(c, "EHLO x\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 1 LAST\r\nxQUIT\r\n")
		said, _ := io.ReadAll(in)
		if strings.Contains(string(said), "STARTTLS") || !strings.Contains(string(said), "Kept as id1") {
			t.Errorf("said %q", said)
		}
		stop()
		if k := m.all()[0]; k.peer.TLS == nil || k.login != "alice" {
			t.Errorf("peer %+v, login %v", k.peer, k.login)
		}
	})
}
