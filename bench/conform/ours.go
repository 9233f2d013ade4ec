package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"holdfast/smtpd"
	"holdfast/smtpd/conformance"
)

// startOurs starts our own server.
func startOurs(ctx context.Context, s site) (running, error) {
	backend := &memory{}
	pair, err := tls.LoadX509KeyPair(s.cert, s.key)
	if err != nil {
		return running{}, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	var stops []func() error
	for addr, mode := range map[string]smtpd.Mode{s.addr: smtpd.MX, s.submission: smtpd.Submission} {
		limits := smtpd.DefaultLimits()
		limits.ConnectionsPerAddress = -1
		server, err := smtpd.New(smtpd.Config{
			Hostname: "holdfast.peer.test", Mode: mode, TLS: func() *tls.Config { return config }, Limits: limits,
		}, backend)
		if err != nil {
			return running{}, err
		}
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return running{}, err
		}
		done := make(chan error, 1)
		go func() { done <- server.Serve(ctx, ln) }()
		stops = append(stops, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err := server.Shutdown(ctx)
			if served := <-done; !errors.Is(served, smtpd.ErrServerClosed) {
				err = errors.Join(err, served)
			}
			return err
		})
	}
	stop := func() error {
		var all error
		for _, stop := range stops {
			all = errors.Join(all, stop())
		}
		return all
	}
	return running{stop: stop, kept: backend, parallel: 24}, nil
}

// memory is a Backend, and a Keeper: what it keeps is exact, as in the log.
type memory struct {
	mu   sync.Mutex
	mail []conformance.Message
}

// Settle implements [conformance.Keeper].
func (m *memory) Settle(context.Context) error { return nil }

// Messages implements [conformance.Keeper].
func (m *memory) Messages() []conformance.Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]conformance.Message(nil), m.mail...)
}

// Auth implements [smtpd.Backend].
func (m *memory) Auth(_ context.Context, _ smtpd.Peer, _, name, secret string) (smtpd.Login, error) {
	if name != user || secret != password {
		return nil, smtpd.ErrBadCredentials
	}
	return name, nil
}

// Begin implements [smtpd.Backend].
func (m *memory) Begin(_ context.Context, _ smtpd.Peer, login smtpd.Login, from smtpd.ReversePath, _ smtpd.MailParams) (smtpd.Transaction, error) {
	return &transaction{to: m, login: login, m: conformance.Message{From: from.Mailbox}}, nil
}

type transaction struct {
	to    *memory
	login smtpd.Login
	m     conformance.Message
}

func (t *transaction) Rcpt(_ context.Context, to smtpd.ForwardPath, _ smtpd.RcptParams) error {
	switch {
	case to.Domain != "" && to.Domain != domain && t.login == nil:
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
	t.to.mu.Lock()
	defer t.to.mu.Unlock()
	t.to.mail = append(t.to.mail, t.m)
	return fmt.Sprint(len(t.to.mail)), nil
}

func (t *transaction) Close() {}

// writeCertificate writes a certificate signed by itself.
func writeCertificate(cert, key string) error {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, DNSNames: []string{domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &private.PublicKey, private)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
}
