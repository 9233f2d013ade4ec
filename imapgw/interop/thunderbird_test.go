//go:build interop

package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/event"
)

// marionette drives a Mozilla program: JSON arrays, each after its length.
type marionette struct {
	t  *testing.T
	c  net.Conn
	br *bufio.Reader
	id int
}

func (m *marionette) call(command string, params map[string]any) json.RawMessage {
	m.t.Helper()
	m.id++
	b, err := json.Marshal([]any{0, m.id, command, params})
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(m.c, "%d:%s", len(b), b); err != nil {
		m.t.Fatal(err)
	}
	answer := m.read()
	var parts []json.RawMessage
	if err := json.Unmarshal(answer, &parts); err != nil || len(parts) != 4 {
		m.t.Fatalf("%s: answer %s: %v", command, answer, err)
	}
	if string(parts[2]) != "null" {
		m.t.Fatalf("%s: %s", command, parts[2])
	}
	return parts[3]
}

func (m *marionette) read() []byte {
	m.t.Helper()
	_ = m.c.SetReadDeadline(time.Now().Add(2 * time.Minute))
	size, err := m.br.ReadString(':')
	if err != nil {
		m.t.Fatalf("read from Thunderbird: %v", err)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(size, ":"))
	if err != nil {
		m.t.Fatalf("length %q", size)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(m.br, b); err != nil {
		m.t.Fatal(err)
	}
	return b
}

// js runs the body of an async function and returns its result.
func (m *marionette) js(body string, args ...any) string {
	m.t.Helper()
	script := `
const done = arguments[arguments.length - 1];
const args = Array.from(arguments);
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const wait = async (what, f) => {
  for (let i = 0; i < 600; i++) { const v = f(); if (v) return v; await new Promise(r => setTimeout(r, 50)); }
  throw new Error("waited in vain for " + what);
};
const listener = () => { let ok, no; const p = new Promise((a, b) => { ok = a; no = b; });
  p.OnStartRunningUrl = () => {}; p.OnStopRunningUrl = (u, code) => code ? no(new Error("url failed " + code)) : ok();
  p.onStartCopy = p.onProgress = p.setMessageKey = () => {}; p.getMessageId = () => null;
  p.onStopCopy = code => code ? no(new Error("copy failed " + code)) : ok();
  p.QueryInterface = ChromeUtils.generateQI(["nsIUrlListener", "nsIMsgCopyServiceListener"]);
  return p; };
const server = () => MailServices.accounts.accounts.map(a => a.incomingServer).find(s => s.type == "imap");
const folder = name => server().rootFolder.getChildNamed(name);
const header = (f, key) => f.msgDatabase.getMsgHdrForKey(key);
const { setTimeout } = ChromeUtils.importESModule("resource://gre/modules/Timer.sys.mjs");
(async () => {` + body + `})().then(v => done("" + v), e => done("ERROR " + e + " " + e.stack));`
	if args == nil {
		args = []any{}
	}
	raw := m.call("WebDriver:ExecuteAsyncScript", map[string]any{"script": script, "args": args, "newSandbox": true})
	var out struct{ Value string }
	if err := json.Unmarshal(raw, &out); err != nil {
		m.t.Fatalf("result %s: %v", raw, err)
	}
	if strings.HasPrefix(out.Value, "ERROR") {
		m.t.Fatalf("Thunderbird: %s", out.Value)
	}
	return out.Value
}

// thunderbird starts one without a window.
func thunderbird(t *testing.T) *marionette {
	t.Helper()
	need(t, "thunderbird", "thunderbird")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	_ = ln.Close()
	profile := t.TempDir()
	write(t, filepath.Join(profile, "user.js"), fmt.Sprintf(`
user_pref("marionette.port", %d);
user_pref("mail.provider.suppress_dialog_on_startup", true);
user_pref("mail.spotlight.firstRunDone", true);
user_pref("mail.winsearch.firstRunDone", true);
user_pref("mail.shell.checkDefaultClient", false);
user_pref("mailnews.start_page.enabled", false);
user_pref("mail.rights.version", 1);
user_pref("app.donation.eoy.version.viewed", 999);
user_pref("app.update.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.enabled", false);
user_pref("extensions.update.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.dns.disableIPv6", true);
user_pref("calendar.timezone.local", "UTC");
`, addr.Port))
	cmd := exec.Command("thunderbird", "--headless", "--marionette", "--remote-allow-system-access", "--no-remote", "--profile", profile)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "MOZ_HEADLESS=1", "LC_ALL=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nothing in it is worth keeping
		_ = cmd.Wait()
		_ = log.Close()
	})
	m := &marionette{t: t}
	for deadline := time.Now().Add(90 * time.Second); ; {
		if m.c, err = net.Dial("tcp", addr.String()); err == nil {
			break
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("Thunderbird does not listen: %v\n%s", err, text)
		}
		<-time.After(100 * time.Millisecond) // it is starting
	}
	t.Cleanup(func() { _ = m.c.Close() })
	m.br = bufio.NewReader(m.c)
	m.read() // its greeting
	m.call("WebDriver:NewSession", map[string]any{"capabilities": map[string]any{}})
	m.call("Marionette:SetContext", map[string]any{"value": "chrome"})
	m.call("WebDriver:SetTimeouts", map[string]any{"script": 100_000})
	return m
}

// eventually waits for the server to have heard of something.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-time.After(20 * time.Millisecond) // between two looks at another program
	}
}

func TestThunderbird(t *testing.T) {
	s := serve(t)
	m := thunderbird(t)
	port, err := strconv.Atoi(s.port)
	if err != nil {
		t.Fatal(err)
	}
	total := len(s.mails)
	m.js(`
const s = MailServices.accounts.createIncomingServer("alice", args[0], "imap");
s.port = args[1]; s.socketType = 0; s.authMethod = 3; s.password = "secret"; s.loginAtStartUp = false;
s.QueryInterface(Ci.nsIImapIncomingServer).useIdle = true;
const id = MailServices.accounts.createIdentity(); id.email = "alice@acme.test";
const a = MailServices.accounts.createAccount(); a.incomingServer = s; a.addIdentity(id);
s.performExpand(null);
await wait("folders", () => s.rootFolder.subFolders.length >= 6);`, s.host, port)
	if got := m.js(`return server().rootFolder.subFolders.map(f => f.name).sort().join()`); !strings.Contains(got, "Archive,Drafts,") || !strings.Contains(got, "Trash") {
		t.Errorf("folders: %s", got)
	}

	// Open INBOX: headers of everything.
	got := m.js(`
const f = folder("INBOX"), l = listener(); f.getNewMessages(null, l); await l;
await wait("headers", () => f.getTotalMessages(false) >= args[0] && [...f.msgDatabase.enumerateMessages()].length >= args[0]);
return [...f.msgDatabase.enumerateMessages()].length + " " + f.getNumUnread(false);`, total)
	if want := fmt.Sprintf("%d %d", total, total); got != want {
		t.Errorf("INBOX shows %s, want %s", got, want)
	}

	// Read some messages byte for byte.
	for i := 0; i < total; i += 13 {
		want := s.mails[i]
		got := m.js(`
const f = folder("INBOX"), uri = f.getUriForMsg(header(f, args[0])), svc = MailServices.messageServiceFromURI(uri);
return await new Promise((ok, no) => { const parts = [];
  svc.streamMessage(uri, { QueryInterface: ChromeUtils.generateQI(["nsIStreamListener"]), onStartRequest() {},
    onDataAvailable(r, s, o, n) { const b = Cc["@mozilla.org/binaryinputstream;1"].createInstance(Ci.nsIBinaryInputStream); b.setInputStream(s); parts.push(b.readBytes(n)); },
    onStopRequest(r, code) { code ? no(new Error("stream failed " + code)) : ok(btoa(parts.join(""))); } }, null, null, false, "", false); });`, i+1)
		if text := decode(t, got); !equalMail(text, string(want)) {
			t.Errorf("message %d: Thunderbird has %d bytes, want %d", i+1, len(text), len(want))
		}
	}

	// Flag and tag; move; append; search on the server.
	m.js(`
const f = folder("INBOX"); const h = header(f, 1);
f.markMessagesFlagged([h], true); f.addKeywordsToMessages([h], "$label1"); f.markMessagesRead([header(f, 2)], true);`)
	eventually(t, "flags", func() bool {
		flags := s.alice.Flags("INBOX", 1)
		return slices.Contains(flags, `\Flagged`) && slices.Contains(flags, "$label1") && slices.Contains(s.alice.Flags("INBOX", 2), `\Seen`)
	})
	m.js(`
const f = folder("INBOX"), l = listener();
MailServices.copy.copyMessages(f, [header(f, 3), header(f, 4)], folder("Archive"), true, l, null, false); await l;`)
	eventually(t, "move", func() bool {
		return len(s.alice.UIDs("Archive")) == 2 && !slices.Contains(s.alice.UIDs("INBOX"), event.UID(3))
	})
	draft := filepath.Join(t.TempDir(), "draft.eml")
	write(t, draft, "From: alice@acme.test\r\nSubject: written in Thunderbird\r\nMessage-ID: <x@acme.test>\r\n\r\nA needle.\r\n")
	m.js(`
const file = Cc["@mozilla.org/file/local;1"].createInstance(Ci.nsIFile); file.initWithPath(args[0]); const l = listener();
MailServices.copy.copyFileMessage(file, folder("Drafts"), null, true, 1, "", l, null); await l;`, draft)
	eventually(t, "append", func() bool { return len(s.alice.UIDs("Drafts")) == 1 })
	hits := m.js(`
const f = folder("Drafts"); { const l = listener(); f.getNewMessages(null, l); await l; }
await wait("the draft", () => [...f.msgDatabase.enumerateMessages()].length == 1);
const S = Ci.nsMsgSearchScope, session = Cc["@mozilla.org/messenger/searchSession;1"].createInstance(Ci.nsIMsgSearchSession);
session.addScopeTerm(S.onlineMail, f);
const term = session.createTerm(); const v = term.value; v.attrib = Ci.nsMsgSearchAttrib.Body; v.str = "needle";
term.attrib = Ci.nsMsgSearchAttrib.Body; term.op = Ci.nsMsgSearchOp.Contains; term.value = v; term.booleanAnd = true; session.appendTerm(term);
return await new Promise(ok => { let n = 0;
  session.registerListener({ QueryInterface: ChromeUtils.generateQI(["nsIMsgSearchNotify"]), onNewSearch() {}, onSearchHit() { n++; }, onSearchDone() { ok(n); } });
  session.search(null); });`)
	if hits != "1" {
		t.Errorf("search on the server found %s", hits)
	}

	// What happens elsewhere shows by itself: INBOX is selected and idle.
	m.js(`const l = listener(); folder("INBOX").getNewMessages(null, l); await l;`)
	s.alice.Deliver([]byte("From: b@b.test\r\nSubject: while you wait\r\n\r\nHi.\r\n"), time.Now())
	m.js(`const f = folder("INBOX"); await wait("new mail in IDLE", () => [...f.msgDatabase.enumerateMessages()].some(h => h.subject == "while you wait"));`)
}
