package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/smtpd"
)

// keeper is a Backend that keeps everything in memory. It knows one user, alice
// with the password secret, and no recipient named "unknown". Faults: the first
// message from "retry" is put off once.
type keeper struct {
	mu   sync.Mutex
	mail []message
	put  int
	news chan struct{} // one for each message
}

type message struct {
	from, login string
	to          []string
	params      smtpd.MailParams
	tls, esmtp  bool
	body        string
}

func (k *keeper) Auth(_ context.Context, _ smtpd.Peer, _, user, password string) (smtpd.Login, error) {
	if user != "alice" || password != "secret" {
		return nil, smtpd.ErrBadCredentials
	}
	return user, nil
}

func (k *keeper) Begin(_ context.Context, peer smtpd.Peer, login smtpd.Login, from smtpd.ReversePath, p smtpd.MailParams) (smtpd.Transaction, error) {
	name, _ := login.(string)
	return &transaction{k: k, m: message{from: from.Raw, login: name, params: p, tls: peer.TLS != nil, esmtp: peer.ESMTP}}, nil
}

type transaction struct {
	k *keeper
	m message
}

func (t *transaction) Rcpt(_ context.Context, to smtpd.ForwardPath, _ smtpd.RcptParams) error {
	if to.Local == "unknown" {
		return smtpd.ErrUnknownRecipient
	}
	t.m.to = append(t.m.to, to.Raw)
	return nil
}

func (t *transaction) Data(_ context.Context, body io.Reader) (string, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return "", fmt.Errorf("read body: %w", err)
	}
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	if strings.HasPrefix(t.m.from, "retry") && t.k.put == 0 {
		t.k.put++
		return "", smtpd.ErrTemporary
	}
	t.m.body = string(b)
	t.k.mail = append(t.k.mail, t.m)
	t.k.news <- struct{}{}
	return fmt.Sprintf("%032d", len(t.k.mail)), nil
}

func (t *transaction) Close() {}

// serve starts a server and returns its port.
func serve(t *testing.T, mode smtpd.Mode) (*keeper, string) {
	t.Helper()
	k := &keeper{news: make(chan struct{}, 1000)}
	config := certificate(t)
	s, err := smtpd.New(smtpd.Config{
		Hostname: "mx.example", Mode: mode, TLS: func() *tls.Config { return config }, AllowPlaintextAuth: true,
	}, k)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Shutdown(ctx)
		<-done
	})
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return k, port
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

// wait waits for so many messages.
func (k *keeper) wait(t *testing.T, n int) []message {
	t.Helper()
	limit := time.After(30 * time.Second)
	for range n {
		select {
		case <-k.news:
		case <-limit:
			t.Fatalf("not %d messages in time", n)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]message(nil), k.mail...)
}

// run runs a program and returns what it said.
func run(t *testing.T, name string, arg ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, arg...)
	out, err := c.CombinedOutput()
	return string(out), err
}

const pythonClient = `
import smtplib, ssl, sys
port = int(sys.argv[1])
ctx = ssl.create_default_context(); ctx.check_hostname = False; ctx.verify_mode = ssl.CERT_NONE
msg = b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\nlast\r\n"
with smtplib.SMTP("127.0.0.1", port) as s:
    assert s.ehlo()[0] == 250
    assert s.has_extn("chunking") and s.has_extn("smtputf8") and s.has_extn("pipelining"), s.esmtp_features
    s.starttls(context=ctx)
    s.login("alice", "secret")
    refused = s.sendmail("a@example.com", ["b@example.org", "unknown@example.org"], msg)
    assert list(refused) == ["unknown@example.org"] and refused["unknown@example.org"][0] == 550, refused
    s.sendmail("\u00e4@example.com", ["\u00fc@example.org"], msg, mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    s.sendmail("", ["postmaster"], b"x" * 100000 + b"\r\n")
    assert s.verify("b@example.org")[0] == 252
    assert s.noop()[0] == 250
with smtplib.SMTP("127.0.0.1", port) as s:
    s.helo()
    try:
        s.sendmail("a@example.com", ["b@example.org"], msg)
        raise SystemExit("sent without a login")
    except smtplib.SMTPSenderRefused as e:
        assert e.smtp_code == 530, e
    s.ehlo()
    try:
        s.login("alice", "wrong")
        raise SystemExit("logged in with a wrong password")
    except smtplib.SMTPAuthenticationError as e:
        assert e.smtp_code == 535, e
`

func TestPythonSmtplib(t *testing.T) {
	k, port := serve(t, smtpd.Submission)
	if out, err := run(t, "python3", "-c", pythonClient, port); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := k.wait(t, 3)
	if m := got[0]; m.body != "Subject: dots\r\n\r\n.\r\n..\r\n.x\r\nlast\r\n" || m.login != "alice" || !m.tls || len(m.to) != 1 {
		t.Errorf("first message %+v", m)
	}
	if m := got[1]; m.from != "ä@example.com" || m.to[0] != "ü@example.org" || !m.params.SMTPUTF8 || m.params.Body != "8BITMIME" {
		t.Errorf("second message %+v", m)
	}
	if m := got[2]; m.from != "" || m.to[0] != "postmaster" || len(m.body) != 100002 {
		t.Errorf("third message from %q to %q, %d octets", m.from, m.to, len(m.body))
	}
}

func TestSwaks(t *testing.T) {
	for name, arg := range map[string][]string{
		"plain":         {"--auth", "PLAIN"},
		"login":         {"--auth", "LOGIN"},
		"tls":           {"--auth", "PLAIN", "--tls"},
		"tls pipelined": {"--auth", "LOGIN", "--tls", "--pipeline"},
	} {
		t.Run(name, func(t *testing.T) {
			k, port := serve(t, smtpd.Submission)
			arg = append(arg, "--server", "127.0.0.1", "--port", port, "--from", "a@example.com", "--to", "b@example.org,c@example.org",
				"--auth-user", "alice", "--auth-password", "secret", "--ehlo", "client.example", "--body", "hello from swaks\n.\nend")
			out, err := run(t, "swaks", arg...)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			m := k.wait(t, 1)[0]
			if !strings.Contains(m.body, "hello from swaks\r\n.\r\nend") || m.login != "alice" || len(m.to) != 2 {
				t.Errorf("%+v", m)
			}
			if m.tls != strings.HasPrefix(name, "tls") {
				t.Errorf("tls is %t", m.tls)
			}
		})
	}
}

// TestPostfix lets a Postfix of its own relay to the server, with STARTTLS, and
// again after a 451.
func TestPostfix(t *testing.T) {
	k, port := serve(t, smtpd.MX)
	conf := startPostfix(t, port)
	body := "Subject: from Postfix\n\n.\n..\n.x\n" + strings.Repeat("y", 5000) + "\nend\n"
	for _, from := range []string{"a@example.com", "retry@example.com"} {
		c := exec.Command("/usr/sbin/sendmail", "-i", "-C", conf, "-f", from, "b@example.org", "c@example.org")
		c.Stdin = strings.NewReader(body)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("sendmail: %v: %s", err, out)
		}
	}
	got := map[string]message{}
	for _, m := range k.wait(t, 2) {
		got[m.from] = m
	}
	for _, from := range []string{"a@example.com", "retry@example.com"} {
		m, ok := got[from]
		if !ok {
			t.Fatalf("nothing from %s", from)
		}
		if !m.tls || !m.esmtp || len(m.to) != 2 {
			t.Errorf("%s: tls %t, esmtp %t, to %q", from, m.tls, m.esmtp, m.to)
		}
		// Postfix breaks lines at 998 octets.
		if !strings.Contains(m.body, "\r\n\r\n.\r\n..\r\n.x\r\nyyy") || !strings.HasSuffix(m.body, "\r\nend\r\n") {
			t.Errorf("%s: body %.400q", from, m.body)
		}
	}
	if k.put != 1 {
		t.Errorf("put off %d times", k.put)
	}
}

const postfixMain = `compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/lib
myhostname = sender.example
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
relayhost = [127.0.0.1]:%[2]s
smtp_tls_security_level = encrypt
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
maillog_file = %[1]s/spool/maillog
maillog_file_prefixes = %[1]s
alias_maps =
local_recipient_maps =
alternate_config_directories = %[1]s/etc
`

const postfixMaster = `pickup  unix n - n 1 1 pickup
cleanup unix n - n - 0 cleanup
qmgr    unix n - n 1 1 qmgr
tlsmgr  unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce  unix - - n - 0 bounce
defer   unix - - n - 0 bounce
trace   unix - - n - 0 bounce
flush   unix n - n 1000? 0 flush
smtp    unix - - n - - smtp
error   unix - - n - - error
retry   unix - - n - - error
discard unix - - n - - discard
anvil   unix - - n - 1 anvil
scache  unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// startPostfix starts an instance with its own directories and returns the one
// of its configuration.
func startPostfix(t *testing.T, port string) string {
	t.Helper()
	root, err := os.MkdirTemp("/var/tmp", "smtpd-interop-") // its sockets need a short path that user postfix can reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	conf := filepath.Join(root, "etc")
	for _, d := range []string{conf, filepath.Join(root, "spool"), filepath.Join(root, "lib")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "postfix", filepath.Join(root, "lib")).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v: %s", err, out)
	}
	main := fmt.Sprintf(postfixMain, root, port)
	for name, text := range map[string]string{"main.cf": main, "master.cf": postfixMaster} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("postfix", "-c", conf, "start-fg")
	log, err := os.Create(filepath.Join(root, "log"))
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("postfix", "-c", conf, "stop").Run()
		c.Wait()
		log.Close()
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("postfix said: %s", said)
			text, _ := os.ReadFile(filepath.Join(root, "spool/maillog"))
			t.Logf("postfix: %s", text)
		}
	})
	for range 100 { // a started Postfix has its public socket
		if _, err := os.Stat(filepath.Join(root, "spool/public/pickup")); err == nil {
			return conf
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("postfix did not start")
	return ""
}

// TestSMTPSource takes many messages from Postfix's generator, on reused
// connections and on one connection each.
func TestSMTPSource(t *testing.T) {
	for name, arg := range map[string][]string{"one each": nil, "reused": {"-d"}} {
		t.Run(name, func(t *testing.T) {
			k, port := serve(t, smtpd.MX)
			// With -d, connections are kept open after a message.
			arg := append([]string{"-s", "10", "-m", "200", "-l", "10000", "-f", "a@example.com", "-t", "b@example.org"}, arg...)
			if out, err := run(t, "smtp-source", append(arg, "inet:127.0.0.1:"+port)...); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if n := len(k.wait(t, 200)); n != 200 {
				t.Errorf("%d messages", n)
			}
		})
	}
}
