package node

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// writeCertificate puts a certificate for a name and its key into files.
func writeCertificate(t *testing.T, conf TLSConfig, name string) {
	t.Helper()
	cert, err := selfSigned(name)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalECPrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		conf.Cert: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		conf.Key:  {Type: "EC PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func nameOf(t *testing.T, c *tls.Certificate) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Subject.CommonName
}

func TestRenewedCertificateIsServed(t *testing.T) {
	dir := t.TempDir()
	conf := TLSConfig{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	writeCertificate(t, conf, "old.example")
	synctest.Test(t, func(t *testing.T) {
		c, err := newCertificates(conf, "unused.example")
		if err != nil {
			t.Fatal(err)
		}
		if got := nameOf(t, c.get()); got != "old.example" {
			t.Fatalf("serves %s", got)
		}
		writeCertificate(t, conf, "renewed.example")
		time.Sleep(2 * recheck)
		if got := nameOf(t, c.get()); got != "renewed.example" {
			t.Errorf("after a renewal it serves %s", got)
		}
		// Half a file, as while it is being renewed, leaves the old one in use.
		if err := os.WriteFile(conf.Cert, []byte("-----BEGIN"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * recheck)
		if got := nameOf(t, c.get()); got != "renewed.example" {
			t.Errorf("with half a file it serves %s", got)
		}
		if conf := c.config(); !conf.SessionTicketsDisabled || conf.MinVersion < tls.VersionTLS12 {
			t.Error("session tickets are on, or old protocol versions allowed")
		}
	})
}

func TestWithoutACertificateOneIsMade(t *testing.T) {
	c, err := newCertificates(TLSConfig{}, "mx.example")
	if err != nil || nameOf(t, c.get()) != "mx.example" {
		t.Errorf("%v", err)
	}
	if _, err := newCertificates(TLSConfig{Cert: "missing.pem", Key: "missing.pem"}, "mx.example"); err == nil {
		t.Error("a missing certificate is no error")
	}
}
