package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// peers returns the servers, ours first.
func peers(fetched string) []peer {
	exim, opensmtpd := filepath.Join(fetched, "exim"), filepath.Join(fetched, "opensmtpd")
	return []peer{
		{
			name: "Holdfast", program: "Holdfast", start: startOurs,
			about:   "Package smtpd with its default limits.",
			version: func(context.Context) (string, error) { return "this tree", nil },
		},
		{
			name: "Postfix", program: "Postfix", start: func(ctx context.Context, s site) (running, error) { return startPostfix(ctx, s, "") },
			about: "Its defaults, which in this version take a bare LF for a line end; " +
				"without the pause after errors, and without the header fields it adds for local clients.",
			version: postfixVersion,
		},
		{
			name: "Postfix, hardened", program: "Postfix",
			start: func(ctx context.Context, s site) (running, error) {
				return startPostfix(ctx, s, "smtpd_forbid_bare_newline = normalize\nsmtpd_forbid_unauth_pipelining = yes\n")
			},
			about:   "The same with smtpd_forbid_bare_newline = normalize and smtpd_forbid_unauth_pipelining = yes, as its author advises against smuggling.",
			version: postfixVersion,
		},
		{
			name: "Exim", program: "Exim", start: func(ctx context.Context, s site) (running, error) { return startExim(ctx, s, exim) },
			about: "The access rules of its default configuration, without lookups in the DNS; DSN switched on.",
			version: func(ctx context.Context) (string, error) {
				return firstLine(ctx, "version", exim, "/usr/sbin/exim4", "-bV")
			},
		},
		{
			name: "OpenSMTPD", program: "OpenSMTPD", start: func(ctx context.Context, s site) (running, error) { return startOpenSMTPD(ctx, s, opensmtpd) },
			about: "Its defaults, without TLS and so without logins: every handshake with this build ended in an internal error here, with RSA and ECDSA keys.",
			version: func(ctx context.Context) (string, error) {
				return firstLine(ctx, "OpenSMTPD", opensmtpd, "/usr/sbin/smtpd", "-h")
			},
		},
	}
}

// firstLine returns the first line of a program's output that holds a word. What
// status the program ends with does not matter.
func firstLine(ctx context.Context, word, root string, args ...string) (string, error) {
	out, _ := exec.CommandContext(ctx, "chroot", append([]string{root}, args...)...).CombinedOutput()
	for l := range strings.Lines(string(out)) {
		if strings.Contains(l, word) {
			return strings.TrimPrefix(strings.TrimSpace(l), "version: "), nil
		}
	}
	return "", fmt.Errorf("%s says no version: %s", args[0], out)
}

func postfixVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "/usr/sbin/postconf", "-dh", "mail_version").Output()
	return "Postfix version " + strings.TrimSpace(string(out)), err
}

// fill writes a file from a template.
func fill(path, text string, s site, more map[string]string) error {
	values := map[string]string{
		"Dir": s.dir, "Domain": domain, "Cert": s.cert, "Key": s.key, "User": user, "Password": password,
	}
	for name, addr := range map[string]string{"": s.addr, "Submission": s.submission, "Relay": s.relay} {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return err
		}
		values[name+"Addr"], values[name+"Host"], values[name+"Port"] = addr, host, port
	}
	for k, v := range more {
		values[k] = v
	}
	t, err := template.New(path).Option("missingkey=error").Parse(text)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, values); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

const postfixMain = `compatibility_level = 3.6
myhostname = postfix.peer.test
myorigin = {{.Domain}}
queue_directory = {{.Dir}}/queue
data_directory = {{.Dir}}/data
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 192.0.2.0/24
local_header_rewrite_clients =
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
relay_domains = {{.Domain}}
relay_recipient_maps = regexp:{{.Dir}}/etc/recipients
relay_transport = smtp:[{{.RelayHost}}]:{{.RelayPort}}
default_transport = smtp:[{{.RelayHost}}]:{{.RelayPort}}
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_tls_cert_file = {{.Cert}}
smtpd_tls_key_file = {{.Key}}
smtpd_tls_security_level = may
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:{{.SaslAddr}}
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtp_host_lookup = native
smtp_tls_security_level = none
in_flow_delay = 0
maillog_file = {{.Dir}}/log
maillog_file_prefixes = {{.Dir}}
{{.More}}`

// postfixMaster is Debian's, without chroot and without what is not used here.
const postfixMaster = `{{.Addr}} inet n - n - - smtpd
{{.SubmissionAddr}} inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_tls_auth_only=yes
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
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

func startPostfix(ctx context.Context, s site, more string) (running, error) {
	sasl, err := startSasl()
	if err != nil {
		return running{}, err
	}
	etc := filepath.Join(s.dir, "etc")
	for _, sub := range []string{etc, filepath.Join(s.dir, "queue"), filepath.Join(s.dir, "data")} {
		if err := os.Mkdir(sub, 0o755); err != nil {
			return running{}, err
		}
	}
	values := map[string]string{"SaslAddr": sasl.addr(), "More": more}
	err = errors.Join(
		fill(filepath.Join(etc, "main.cf"), postfixMain, s, values),
		fill(filepath.Join(etc, "master.cf"), postfixMaster, s, values),
		os.WriteFile(filepath.Join(etc, "recipients"), []byte("!/^unknown@/ OK\n"), 0o644),
		runHere(ctx, "chown", "postfix", filepath.Join(s.dir, "data")),
		runHere(ctx, "/usr/sbin/postfix", "-c", etc, "start"),
	)
	stop := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return errors.Join(runHere(ctx, "/usr/sbin/postfix", "-c", etc, "stop"), sasl.stop())
	}
	return running{stop: stop, parallel: 24}, err
}

// runHere runs a program to its end.
func runHere(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

const eximConf = `exim_user = Debian-exim
exim_group = Debian-exim
primary_hostname = exim.peer.test
qualify_domain = {{.Domain}}
spool_directory = /spool
log_file_path = /spool/%slog
pid_file_path = /spool/pid
domainlist relay_to_domains = {{.Domain}}
local_interfaces = <; [{{.Host}}]:{{.Port}} ; [{{.SubmissionHost}}]:{{.SubmissionPort}}
tls_advertise_hosts = *
tls_certificate = /etc/cert.pem
tls_privatekey = /etc/key.pem
dsn_advertise_hosts = *
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 200
smtp_accept_queue_per_connection = 0
queue_only_load = 100
deliver_queue_load_max = 100
ignore_bounce_errors_after = 2d
acl_smtp_rcpt = rcpt
acl_smtp_data = data
acl_smtp_mail = mail
begin acl
mail:
  deny    condition = ${if eq{$received_port}{ {{- .SubmissionPort -}} }}
          !authenticated = *
          message   = 530 5.7.0 authentication required
  accept
rcpt:
  deny    domains       = +relay_to_domains
          local_parts   = ^[.] : ^.*[@%!/|]
          message       = Restricted characters in address
  deny    domains       = !+relay_to_domains
          local_parts   = ^[./|] : ^.*[@%!] : ^.*/\\.\\./
          message       = Restricted characters in address
  accept  local_parts   = postmaster
          domains       = +relay_to_domains
  accept  authenticated = *
  require message       = relay not permitted
          domains       = +relay_to_domains
  require verify        = recipient
  accept
data:
  deny    message       = maximum allowed line length is 998 octets, got $max_received_linelength
          condition     = ${if > {$max_received_linelength}{998}}
  accept
begin routers
nobody:
  driver = redirect
  local_parts = unknown
  data = :fail: no such recipient
  allow_fail
onward:
  driver = manualroute
  route_list = * {{.RelayHost}}
  self = send
  transport = onward
begin transports
onward:
  driver = smtp
  port = {{.RelayPort}}
  hosts_avoid_tls = *
begin retry
* * F,1h,1s
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{ {eq{$auth2}{ {{- .User -}} }}{eq{$auth3}{ {{- .Password -}} }} }}
  server_set_id = $auth2
  server_advertise_condition = ${if and{ {def:tls_in_cipher}{eq{$received_port}{ {{- .SubmissionPort -}} }} }}
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${if and{ {eq{$auth1}{ {{- .User -}} }}{eq{$auth2}{ {{- .Password -}} }} }}
  server_set_id = $auth1
  server_advertise_condition = ${if and{ {def:tls_in_cipher}{eq{$received_port}{ {{- .SubmissionPort -}} }} }}
`

func startExim(_ context.Context, s site, root string) (running, error) {
	spool := filepath.Join(root, "spool")
	etc := filepath.Join(root, "etc")
	if err := errors.Join(os.RemoveAll(spool), os.MkdirAll(spool, 0o750), os.Chown(spool, 901, 901), os.MkdirAll(filepath.Join(etc, "exim4"), 0o755)); err != nil {
		return running{}, err
	}
	err := errors.Join(
		fill(filepath.Join(etc, "exim4/exim4.conf"), eximConf, s, nil),
		copyFile(s.cert, filepath.Join(etc, "cert.pem"), 0, 0o644), copyFile(s.key, filepath.Join(etc, "key.pem"), 901, 0o400),
	)
	if err != nil {
		return running{}, err
	}
	r, err := startInRoot(root, "/usr/sbin/exim4", "-bdf", "-q1m")
	r.parallel = 24
	return r, err
}

const opensmtpdConf = `table nobody { "unknown@{{.Domain}}" }
listen on {{.Host}} port {{.Port}} hostname {{.Domain}}
action "onward" relay host smtp://{{.RelayHost}}:{{.RelayPort}}
match from any for rcpt-to <nobody> reject
match from any for domain "{{.Domain}}" action "onward"
`

func startOpenSMTPD(_ context.Context, s site, root string) (running, error) {
	err := errors.Join(
		os.RemoveAll(filepath.Join(root, "var/spool/smtpd")),
		fill(filepath.Join(root, "etc/smtpd.conf"), opensmtpdConf, s, nil),
	)
	if err != nil {
		return running{}, err
	}
	r, err := startInRoot(root, "/usr/sbin/smtpd", "-d", "-f", "/etc/smtpd.conf")
	// One connection half closed makes it slow for all others.
	r.clear, r.parallel = true, 3
	return r, err
}

func copyFile(from, to string, owner int, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(to), os.WriteFile(to, data, mode), os.Chown(to, owner, owner))
}

// startInRoot starts a program in a root directory of its own. It must stay in
// the foreground. Its children are of its process group and end with it.
func startInRoot(root string, args ...string) (running, error) {
	log, err := os.Create(filepath.Join(root, "log"))
	if err != nil {
		return running{}, err
	}
	cmd := exec.Command("chroot", append([]string{root}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return running{}, errors.Join(err, log.Close())
	}
	stop := func() error {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		defer timer.Stop()
		cmd.Wait() // It ends by the signal.
		return log.Close()
	}
	return running{stop: stop}, nil
}
