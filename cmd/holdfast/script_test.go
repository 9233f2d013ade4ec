package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/delivery/smtpc/smtptest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"holdfast": main})
}

// TestScript runs the scripts of testdata/script, each in a directory of its
// own. What they may say beside testscript's own commands:
//
//	exit CODE PROGRAM ARGS...  runs a program that has to exit with CODE; a failing
//	                           holdfast has to explain itself in one line
//	config FILE DATA BUCKET    writes another node's configuration
//	primary                    starts a pretend primary, and writes domains.toml
//	start [FILE]               runs the node until it is ready
//	leave, kill9               ends it, by SIGTERM or by SIGKILL
//	post FROM TO FILE [PASSWORD]
//	                           sends a message to the node, with a password as a user
//	                           who logs in; sets ID
//	arrived N                  waits until the primary has N messages
//	drained                    waits until nothing is queued
//	damage DIR                 flips a bit of the largest file below a directory
//	let NAME FILE REGEXP       sets a variable to what the group matches in a file
//	keys FILE KEY...           has every line of JSON exactly these keys; "..." allows more
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			st := &stage{}
			env.Values[stageKey{}] = st
			env.Defer(st.close)
			return os.WriteFile(filepath.Join(env.WorkDir, "holdfast.toml"), []byte(nodeConfig("./data", "./bucket")), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit": scriptExit, "config": scriptConfig, "primary": scriptPrimary, "start": scriptStart,
			"leave": scriptLeave, "kill9": scriptKill, "post": scriptPost, "arrived": scriptArrived,
			"drained": scriptDrained, "let": scriptLet, "keys": scriptKeys, "damage": scriptDamage,
		},
	})
}

type stageKey struct{}

// stage is what a script has running.
type stage struct {
	node    *demoNode
	primary *smtptest.Server
}

func (s *stage) close() {
	if s.node != nil {
		s.node.kill()
		s.node.log.file.Close()
	}
	if s.primary != nil {
		s.primary.Stop()
	}
}

func stageOf(ts *testscript.TestScript) *stage { return ts.Value(stageKey{}).(*stage) }

func nodeConfig(data, bucket string) string {
	text := fmt.Sprintf(demoConfig, anyPort, anyPort, anyPort, anyPort)
	text = strings.Replace(text, "./data", data, 1)
	return strings.Replace(text, "./bucket", bucket, 1)
}

func usage(ts *testscript.TestScript, neg, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func scriptExit(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "exit CODE PROGRAM ARGS...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	stderr := ts.ReadFile("stderr")
	if got != want {
		ts.Fatalf("exit %d, want %d: %s%s", got, want, ts.ReadFile("stdout"), stderr)
	}
	if got != 0 && (!strings.HasPrefix(stderr, "holdfast: ") || strings.Count(stderr, "\n") != 1) {
		ts.Fatalf("a failure is explained in one line, not by %q", stderr)
	}
	if got == 0 && strings.Contains(stderr, "\nholdfast: ") {
		ts.Fatalf("a success complains: %q", stderr)
	}
}

func scriptConfig(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "config FILE DATA BUCKET")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(nodeConfig(args[1], args[2])), 0o600))
}

func scriptPrimary(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "primary")
	st := stageOf(ts)
	st.primary = smtptest.New(smtptest.Options{})
	ts.Check(st.primary.Start())
	file := fmt.Sprintf(demoDomains, st.primary.Addr(), st.primary.Addr())
	ts.Check(os.WriteFile(ts.MkAbs("domains.toml"), []byte(file), 0o600))
}

func scriptStart(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) <= 1, "start [FILE]")
	st := stageOf(ts)
	if st.node == nil {
		exe, err := exec.LookPath("holdfast")
		ts.Check(err)
		f, err := os.OpenFile(ts.MkAbs("node.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		ts.Check(err)
		st.node = &demoNode{exe: exe, env: os.Environ(), log: &nodeLog{file: f}}
	}
	st.node.dir, st.node.config = ts.MkAbs("."), "holdfast.toml"
	if len(args) == 1 {
		st.node.config = args[0]
	}
	took, err := st.node.start(tsContext(ts))
	ts.Check(err)
	ts.Logf("ready after %v", took)
	for _, what := range []string{"smtp", "imap", "web"} {
		ts.Setenv(strings.ToUpper(what), st.node.log.addr(what))
	}
}

func scriptLeave(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "leave")
	took, err := stageOf(ts).node.stop()
	ts.Check(err)
	ts.Logf("left after %v", took)
}

func scriptKill(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "kill9")
	stageOf(ts).node.kill()
}

func scriptPost(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3 || len(args) == 4, "post FROM TO[,TO] FILE [PASSWORD]")
	body := bytes.ReplaceAll([]byte(ts.ReadFile(args[2])), []byte("\n"), []byte("\r\n"))
	l := &letter{from: args[0], to: strings.Split(args[1], ","), bytes: body}
	addr, password := stageOf(ts).node.log.addr("smtp"), ""
	if len(args) == 4 {
		addr, password = stageOf(ts).node.log.addr("submission"), args[3]
	}
	ts.Check(l.send(tsContext(ts), addr, password))
	ts.Setenv("ID", l.id)
}

func scriptArrived(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "arrived N")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(poll(tsContext(ts), 20*time.Second, "mail at the primary", func() error {
		if n := len(stageOf(ts).primary.Transactions()); n != want {
			return fmt.Errorf("%d messages, want %d", n, want)
		}
		return nil
	}))
}

func scriptDrained(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 0, "drained")
	ts.Check(poll(tsContext(ts), 20*time.Second, "an empty queue", func() error {
		d, err := stageOf(ts).node.domain(tsContext(ts))
		if err == nil && (d.Queued != 0 || d.State != "up") {
			err = fmt.Errorf("%d queued, %s", d.Queued, d.State)
		}
		return err
	}))
}

func scriptDamage(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "damage DIR")
	var largest string
	var size int64
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	}))
	b, err := os.ReadFile(largest)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(largest, b, 0o600))
}

func scriptLet(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 3, "let NAME FILE REGEXP")
	re, err := regexp.Compile(args[2])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile(args[1]))
	if len(m) != 2 {
		ts.Fatalf("%s has nothing for %s", args[1], args[2])
	}
	ts.Setenv(args[0], m[1])
}

func scriptKeys(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "keys FILE KEY...")
	want, more := args[1:], false
	if want[len(want)-1] == "..." {
		want, more = want[:len(want)-1], true
	}
	text := ts.ReadFile(args[0])
	if text == "" {
		ts.Fatalf("there is no JSON")
	}
	for line := range strings.Lines(text) {
		var obj map[string]json.RawMessage
		ts.Check(json.Unmarshal([]byte(line), &obj))
		for _, k := range want {
			if v, ok := obj[k]; !ok || string(v) == "null" {
				ts.Fatalf("%q is missing or null in %s", k, line)
			}
		}
		if got := slices.Sorted(maps.Keys(obj)); !more && len(got) != len(want) {
			ts.Fatalf("keys are %v, want %v", got, want)
		}
	}
}

// tsContext bounds what a script waits for; the test's own deadline does too.
func tsContext(*testscript.TestScript) context.Context { return context.Background() }
