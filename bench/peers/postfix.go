// Package peers runs the programs that Holdfast is measured against and tested
// with: Postfix as an instance of its own, apart from any that the machine may
// run, and smtp-sink, which takes mail and keeps none of it.
//
// Both come from Debian's postfix package and both want to be started by root.
package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// Instance says how a Postfix should behave.
type Instance struct {
	Domain  string // mail for it is accepted, for any recipient
	RelayTo string // host:port that all mail goes to, unless it is held
	Hold    bool   // accept into the hold queue and deliver nothing
	Log     bool   // log to the file named by Postfix.LogFile; without it nothing is logged
}

// Postfix is a running instance. Its methods may be called from any goroutine.
type Postfix struct {
	Addr    string // host:port of its SMTP server
	LogFile string
	dir     string
}

// mainCF is all that differs from Postfix's defaults. What costs Postfix time
// without being part of the work is switched off: lookups of names, which would
// time out here, logging, and the pause (in_flow_delay) by which it slows input
// down to the speed of its deliveries.
var mainCF = template.Must(template.New("main.cf").Parse(`
compatibility_level = 3.6
myhostname = postfix.peer.test
queue_directory = {{.Dir}}/queue
data_directory = {{.Dir}}/data
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
relay_domains = {{.Domain}}
local_recipient_maps =
alias_maps =
alias_database =
{{- if .RelayTo}}
default_transport = smtp:[{{.Host}}]:{{.Port}}
relay_transport = smtp:[{{.Host}}]:{{.Port}}
{{- end}}
smtpd_recipient_restrictions = {{if .Hold}}check_client_access static:HOLD, {{end}}permit_mynetworks, reject
smtpd_relay_restrictions = permit_mynetworks, reject
message_size_limit = 104857600
mailbox_size_limit = 0
in_flow_delay = 0
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtp_host_lookup = native
smtpd_tls_security_level = none
smtp_tls_security_level = none
{{- if .Log}}
maillog_file = {{.Dir}}/log
maillog_file_prefixes = {{.Dir}}
{{- end}}
`))

// masterCF is Debian's, without chroot and without what is not used here.
const masterCF = `%s      inet  n       -       n       -       -       smtpd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
`

// StartPostfix starts an instance that keeps everything in dir, which must be
// empty, on the file system whose speed is to be measured, and not below a
// directory that only root may enter. It returns when the instance answers.
func StartPostfix(ctx context.Context, dir string, in Instance) (*Postfix, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	p := &Postfix{Addr: addr, LogFile: filepath.Join(dir, "log"), dir: dir}
	if err := p.configure(in); err != nil {
		return nil, fmt.Errorf("configure Postfix: %w", err)
	}
	if _, err := p.command(ctx, "postfix", "start"); err != nil {
		return nil, err
	}
	if err := waitForBanner(ctx, addr); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for Postfix: %w", err), p.Stop())
	}
	return p, nil
}

// Dir is the directory of the instance.
func (p *Postfix) Dir() string { return p.dir }

func (p *Postfix) configure(in Instance) error {
	// Postfix's processes run as other users and have to reach their queue.
	if err := os.Chmod(p.dir, 0o755); err != nil {
		return err
	}
	for _, sub := range []string{"etc", "queue", "data"} {
		if err := os.Mkdir(filepath.Join(p.dir, sub), 0o755); err != nil {
			return err
		}
	}
	if out, err := exec.Command("chown", "postfix", filepath.Join(p.dir, "data")).CombinedOutput(); err != nil {
		return fmt.Errorf("chown: %w: %s", err, out)
	}
	var host, port string
	if in.RelayTo != "" {
		var err error
		if host, port, err = net.SplitHostPort(in.RelayTo); err != nil {
			return err
		}
	}
	var text strings.Builder
	err := mainCF.Execute(&text, map[string]any{"Dir": p.dir, "Domain": in.Domain, "RelayTo": in.RelayTo, "Host": host, "Port": port, "Hold": in.Hold, "Log": in.Log})
	if err != nil {
		return err
	}
	etc := filepath.Join(p.dir, "etc")
	return errors.Join(
		os.WriteFile(filepath.Join(etc, "main.cf"), []byte(text.String()), 0o644),
		os.WriteFile(filepath.Join(etc, "master.cf"), fmt.Appendf(nil, masterCF, p.Addr), 0o644),
	)
}

// Release lets everything that is held be delivered, and asks for it at once.
func (p *Postfix) Release(ctx context.Context) error {
	if _, err := p.command(ctx, "postsuper", "-H", "ALL"); err != nil {
		return err
	}
	_, err := p.command(ctx, "postqueue", "-f")
	return err
}

// Held is how many messages are in the hold queue.
func (p *Postfix) Held() (int, error) {
	n := 0
	err := filepath.WalkDir(filepath.Join(p.dir, "queue", "hold"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	return n, err
}

// Stop ends the instance and waits until it is gone. It may be called again.
func (p *Postfix) Stop() error {
	pid, err := p.pid()
	if err != nil || syscall.Kill(pid, 0) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := p.command(ctx, "postfix", "stop"); err != nil {
		return errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	return nil
}

func (p *Postfix) pid() (int, error) {
	data, err := os.ReadFile(filepath.Join(p.dir, "queue", "pid", "master.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// command runs one of Postfix's own commands on this instance.
func (p *Postfix) command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join("/usr/sbin", name), append([]string{"-c", filepath.Join(p.dir, "etc")}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// freeAddr returns an address on loopback that nobody listened on a moment ago.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// waitForBanner returns once a server at addr has greeted.
func waitForBanner(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := banner(ctx, addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func banner(ctx context.Context, addr string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	greeting := make([]byte, 3)
	if _, err := conn.Read(greeting); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("QUIT\r\n")); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn) // A server that hears no goodbye complains.
	return err
}
