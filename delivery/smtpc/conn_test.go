package smtpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc"
	"holdfast/delivery/smtpc/smtptest"
)

func TestConnectFailuresNameTheirPhase(t *testing.T) {
	const none, b, h = smtptest.Phase(""), smtptest.Banner, smtptest.Helo
	for _, tc := range []struct {
		name    string
		at      smtptest.Phase
		a       smtptest.Action
		phase   smtpc.Phase // 0: no failure
		code    int
		timeout bool
		took    time.Duration
	}{
		{"usual", none, smtptest.Action{}, 0, 0, false, 0},
		{"hung banner", b, smtptest.Action{Hang: true}, smtpc.PhaseBanner, 0, true, 30 * time.Second},
		{"slow banner", b, smtptest.Action{Delay: 29 * time.Second}, 0, 0, false, 29 * time.Second},
		{"no banner", b, smtptest.Action{Drop: true}, smtpc.PhaseBanner, 0, false, 0},
		{"busy", b, smtptest.Action{Reply: "421 4.3.2 busy"}, smtpc.PhaseBanner, 421, false, 0},
		{"no service", b, smtptest.Action{Reply: "554 no"}, smtpc.PhaseBanner, 554, false, 0},
		{"another 2xx as banner", b, smtptest.Action{Reply: "250 what"}, smtpc.PhaseBanner, 250, false, 0},
		{"garbage", b, smtptest.Action{Reply: "HTTP/1.1 400 Bad Request"}, smtpc.PhaseBanner, 0, false, 0},
		{"hung EHLO", h, smtptest.Action{Hang: true}, smtpc.PhaseHelo, 0, true, 30 * time.Second},
		{"EHLO dropped", h, smtptest.Action{Drop: true}, smtpc.PhaseHelo, 0, false, 0},
		{"EHLO 4xx", h, smtptest.Action{Reply: "450 no"}, smtpc.PhaseHelo, 450, false, 0},
		{"EHLO 421", h, smtptest.Action{Reply: "421 no"}, smtpc.PhaseHelo, 421, false, 0},
		{"EHLO and HELO 5xx", h, smtptest.Action{Reply: "550 no"}, smtpc.PhaseHelo, 550, false, 0},
		{"HELO only", h, smtptest.Action{Reply: "502 no", Times: 1}, 0, 0, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := smtptest.New(smtptest.Options{})
				defer s.Stop()
				s.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{tc.at: tc.a}})
				began := time.Now()
				c, err := smtpc.Connect(t.Context(), smtpc.Target{Host: "h"}, smtpc.Config{Dial: s.Dial})
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if tc.phase == 0 {
					if err != nil {
						t.Fatal(err)
					}
					if !c.Alive() {
						t.Error("not alive")
					}
					if err := c.Close(); err != nil || c.Close() != nil || c.Alive() {
						t.Errorf("Close: %v", err)
					}
					return
				}
				if e := asError(t, err); e.Phase != tc.phase || e.Reply.Code != tc.code || e.Timeout != tc.timeout || e.Local {
					t.Errorf("error %+v", e)
				}
			})
		})
	}
}

func TestNoConnection(t *testing.T) {
	s := smtptest.New(smtptest.Options{})
	s.Stop()
	_, err := smtpc.Connect(t.Context(), smtpc.Target{Host: "h"}, smtpc.Config{Dial: s.Dial})
	if e := asError(t, err); e.Phase != smtpc.PhaseConnect || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		hang := func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		_, err := smtpc.Connect(t.Context(), smtpc.Target{Host: "h"}, smtpc.Config{Dial: hang})
		if e := asError(t, err); e.Phase != smtpc.PhaseConnect || !e.Timeout || time.Since(began) != 10*time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
	})
}

func TestDialledAddress(t *testing.T) {
	for want, target := range map[string]smtpc.Target{
		"mx.test:25": {Host: "mx.test"}, "[::1]:2525": {Host: "::1", Port: 2525},
	} {
		var got string
		dial := func(_ context.Context, network, addr string) (net.Conn, error) {
			got = addr
			return nil, syscall.ECONNREFUSED
		}
		_, _ = smtpc.Connect(t.Context(), target, smtpc.Config{Dial: dial})
		if got != want {
			t.Errorf("dialled %s, want %s", got, want)
		}
	}
}

func TestAlive(t *testing.T) {
	s := smtptest.Start(t, smtptest.Options{})
	c, err := smtpc.Connect(t.Context(), target(s), smtpc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !c.Alive() {
		t.Error("not alive at first")
	}
	s.Stop()
	if c.Alive() {
		t.Error("alive though the server is gone")
	}
	if _, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("x\r\n"), nil); !errors.Is(err, smtpc.ErrClosed) {
		t.Errorf("Send on it: %v", err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	c2, err := smtpc.Connect(t.Context(), target(s), smtpc.Config{})
	if err != nil {
		t.Fatalf("after a restart on the same port: %v", err)
	}
	c2.Close()
}

func TestProbe(t *testing.T) {
	for _, tc := range []struct {
		name  string
		at    smtptest.Phase
		a     smtptest.Action
		ok    bool
		phase smtpc.Phase
		code  int
		took  time.Duration
	}{
		{"usual", "", smtptest.Action{}, true, 0, 0, 0},
		{"hung QUIT", smtptest.Quit, smtptest.Action{Hang: true}, true, 0, 0, 0},
		{"slow", smtptest.Banner, smtptest.Action{Delay: 1900 * time.Millisecond}, true, 0, 0, 1900 * time.Millisecond},
		{"hung banner", smtptest.Banner, smtptest.Action{Hang: true}, false, smtpc.PhaseBanner, 0, 2 * time.Second},
		{"hung EHLO", smtptest.Helo, smtptest.Action{Hang: true}, false, smtpc.PhaseHelo, 0, 2 * time.Second},
		{"busy", smtptest.Banner, smtptest.Action{Reply: "421 busy"}, false, smtpc.PhaseBanner, 421, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := smtptest.New(smtptest.Options{})
				defer s.Stop()
				s.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{tc.at: tc.a}})
				began := time.Now()
				o := smtpc.Probe(t.Context(), smtpc.Target{Host: "h"}, smtpc.Config{Dial: s.Dial})
				if o.OK != tc.ok || o.Phase != tc.phase || o.Reply.Code != tc.code || o.Took != tc.took || (o.Err == nil) != tc.ok || !o.At.Equal(began) {
					t.Errorf("%+v", o)
				}
				if time.Since(began) > smtpc.ProbeTimeout {
					t.Errorf("took %v in all", time.Since(began))
				}
			})
		})
	}
}

// A probe sees what keeps mail from being delivered where TLS is required, and
// does not look at certificates elsewhere.
func TestProbeOfRequiredTLS(t *testing.T) {
	cert, pool := selfSigned(t)
	for _, tc := range []struct {
		name   string
		server *tls.Config
		pool   *x509.CertPool
		policy smtpc.Policy
		ok     bool
	}{
		{"it verifies", cert, pool, smtpc.Required, true},
		{"it does not", cert, nil, smtpc.Required, false},
		{"it is missing", nil, pool, smtpc.Required, false},
		{"it does not matter", cert, nil, smtpc.Opportunistic, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Options{TLS: tc.server})
			target := target(s)
			target.TLS, target.ServerName = tc.policy, "primary.test"
			o := smtpc.Probe(t.Context(), target, smtpc.Config{RootCAs: tc.pool})
			if o.OK != tc.ok || !tc.ok && o.Phase != smtpc.PhaseTLS {
				t.Errorf("%+v", o)
			}
		})
	}
}

// selfSigned makes a certificate for primary.test and the pool that trusts it.
func selfSigned(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"primary.test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

func TestTLSPolicies(t *testing.T) {
	good, pool := selfSigned(t)
	broken := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }}
	refuse := smtptest.Action{Reply: "454 4.7.0 not now"}
	for _, tc := range []struct {
		name   string
		server *tls.Config
		at     smtptest.Action // for STARTTLS
		policy smtpc.Policy
		host   string
		roots  *x509.CertPool
		secure bool
		phase  smtpc.Phase
	}{
		{"opportunistic, unknown issuer", good, smtptest.Action{}, smtpc.Opportunistic, "", nil, true, 0},
		{"opportunistic, not offered", nil, smtptest.Action{}, smtpc.Opportunistic, "", nil, false, 0},
		{"opportunistic, refused", good, refuse, smtpc.Opportunistic, "", nil, false, 0},
		{"opportunistic, closing", good, smtptest.Action{Reply: "421 bye"}, smtpc.Opportunistic, "", nil, false, 0},
		{"opportunistic, handshake fails", broken, smtptest.Action{}, smtpc.Opportunistic, "", nil, false, 0},
		{"opportunistic, injection", good, smtptest.Action{Reply: "220 go\r\n250 injected"}, smtpc.Opportunistic, "", nil, false, 0},
		{"required", good, smtptest.Action{}, smtpc.Required, "primary.test", pool, true, 0},
		{"required, wrong name", good, smtptest.Action{}, smtpc.Required, "other.test", pool, false, smtpc.PhaseTLS},
		{"required, name is the host", good, smtptest.Action{}, smtpc.Required, "", pool, false, smtpc.PhaseTLS},
		{"required, unknown issuer", good, smtptest.Action{}, smtpc.Required, "primary.test", x509.NewCertPool(), false, smtpc.PhaseTLS},
		{"required, not offered", nil, smtptest.Action{}, smtpc.Required, "primary.test", pool, false, smtpc.PhaseTLS},
		{"required, refused", good, refuse, smtpc.Required, "primary.test", pool, false, smtpc.PhaseTLS},
		{"required, handshake fails", broken, smtptest.Action{}, smtpc.Required, "primary.test", pool, false, smtpc.PhaseTLS},
		{"required, injection", good, smtptest.Action{Reply: "220 go\r\n250 injected"}, smtpc.Required, "primary.test", pool, false, smtpc.PhaseTLS},
		{"none", good, smtptest.Action{}, smtpc.None, "", nil, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := smtptest.Start(t, smtptest.Options{TLS: tc.server})
			s.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.StartTLS: tc.at}})
			to := target(s)
			to.TLS, to.ServerName = tc.policy, tc.host
			c, err := smtpc.Connect(t.Context(), to, smtpc.Config{RootCAs: tc.roots})
			if tc.phase != 0 {
				if e := asError(t, err); e.Phase != tc.phase {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.Secure() != tc.secure {
				t.Errorf("secure %v", c.Secure())
			}
			for range 3 {
				if !c.Alive() {
					t.Error("not alive")
				}
				if _, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("x\r\n"), nil); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.Transactions(); len(got) != 3 || got[0].Secure != tc.secure {
				t.Errorf("%d messages recorded", len(got))
			}
		})
	}
}
