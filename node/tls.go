package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"sync"
	"time"
)

// certificates serves the certificate of the configuration, read again when its
// file changes, or a self-signed one.
type certificates struct {
	conf TLSConfig

	mu      sync.Mutex
	current *tls.Certificate
	stamp   string
	looked  time.Time
}

// recheck is how often the files are looked at, at most.
const recheck = time.Second

func newCertificates(conf TLSConfig, hostname string) (*certificates, error) {
	c := &certificates{conf: conf}
	if conf.Cert == "" {
		cert, err := selfSigned(hostname)
		if err != nil {
			return nil, fmt.Errorf("make a certificate: %w", err)
		}
		c.current = cert
		return c, nil
	}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return c, nil
}

// config is the TLS configuration of all servers of the node.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Some large senders fail on Go's session tickets.
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.get(), nil
		},
	}
}

// get returns the certificate. A new one that cannot be read leaves the old one
// in use: half-written files are common while certificates are renewed.
func (c *certificates) get() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conf.Cert != "" && time.Since(c.looked) > recheck {
		c.looked = time.Now()
		if stamp(c.conf) != c.stamp {
			_ = c.load() // tried again at the next handshake
		}
	}
	return c.current
}

func (c *certificates) load() error {
	st := stamp(c.conf)
	cert, err := tls.LoadX509KeyPair(c.conf.Cert, c.conf.Key)
	if err != nil {
		return err
	}
	c.current, c.stamp = &cert, st
	return nil
}

func stamp(conf TLSConfig) (s string) {
	for _, path := range []string{conf.Cert, conf.Key} {
		if info, err := os.Stat(path); err == nil {
			s += fmt.Sprintf("%d %d ", info.ModTime().UnixNano(), info.Size())
		}
	}
	return s
}

func selfSigned(hostname string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: hostname}, DNSNames: []string{hostname, "localhost"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
