package imapgw_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/imapgw"
	"holdfast/imapgw/imapgwtest"
)

const patience = 10 * time.Second

// fixture is a server on loopback over an in-memory backend with the accounts
// alice and bob, whose password is "secret".
type fixture struct {
	backend    *imapgwtest.Backend
	alice, bob *imapgwtest.Account
	srv        *imapgw.Server
	addr       string
}

func start(t testing.TB, change func(*imapgw.Config)) *fixture {
	t.Helper()
	f := &fixture{backend: imapgwtest.New()}
	f.alice = f.backend.AddAccount("alice", "secret")
	f.bob = f.backend.AddAccount("bob", "secret")
	cfg := imapgw.Config{AllowPlaintextAuth: true}
	if change != nil {
		change(&cfg)
	}
	f.srv = imapgw.New(cfg, f.backend)
	f.addr = f.listen(t, f.srv.Serve)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f.srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return f
}

// listen serves on a port of its own until the test ends.
func (f *fixture) listen(t testing.TB, serve func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { served <- serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// client is a raw IMAP connection.
type client struct {
	t  testing.TB
	c  net.Conn
	br *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c)
}

func newClient(t testing.TB, c net.Conn) *client {
	t.Cleanup(func() { _ = c.Close() })
	return &client{t: t, c: c, br: bufio.NewReaderSize(c, 64<<10)}
}

// login returns a connection on which alice has logged in.
func (f *fixture) login(t testing.TB) *client {
	t.Helper()
	c := dial(t, f.addr)
	c.line()
	c.ok("LOGIN alice secret")
	return c
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := c.c.Write([]byte(s)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// line returns the next line without its end.
func (c *client) line() string {
	c.t.Helper()
	_ = c.c.SetReadDeadline(time.Now().Add(patience))
	s, err := c.br.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read line after %q: %v", s, err)
	}
	return strings.TrimSuffix(s, "\r\n")
}

// cmd sends a command and returns the untagged lines and the tagged one.
func (c *client) cmd(command string) (untagged []string, tagged string) {
	c.t.Helper()
	c.send("x " + command + "\r\n")
	for {
		l := c.line()
		if strings.HasPrefix(l, "x ") {
			return untagged, strings.TrimPrefix(l, "x ")
		}
		untagged = append(untagged, l)
	}
}

// ok is cmd for a command that has to succeed.
func (c *client) ok(command string) []string {
	c.t.Helper()
	untagged, tagged := c.cmd(command)
	if !strings.HasPrefix(tagged, "OK") {
		c.t.Fatalf("%s: %s", command, tagged)
	}
	return untagged
}

// eof reads to the end of the connection and returns what came.
func (c *client) eof() string {
	c.t.Helper()
	var all strings.Builder
	_ = c.c.SetReadDeadline(time.Now().Add(patience))
	for {
		s, err := c.br.ReadString('\n')
		all.WriteString(s)
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				c.t.Fatal("the connection was not closed")
			}
			return all.String()
		}
	}
}

// testCert returns a self-signed configuration and the pool that trusts it.
func testCert(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mx.holdfast.test"},
		NotAfter: time.Now().Add(time.Hour), NotBefore: time.Now().Add(-time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

// corpus returns hard messages by name.
func corpus(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../message/testdata/*/*.eml")
	if err != nil || len(files) < 50 {
		t.Fatalf("corpus: %d files, %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = data
	}
	return out
}
