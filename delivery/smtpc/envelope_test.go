package smtpc_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc"
	"holdfast/delivery/smtpc/smtptest"
)

func TestParametersFollowWhatIsOffered(t *testing.T) {
	env := smtpc.Envelope{
		From: `<"a b>c"@example.org>`, Ret: "HDRS", EnvID: "QQ+2B1", Body: "8bitmime", SMTPUTF8: true, Size: 42,
		Recipients: []smtpc.Recipient{{To: "<x@b.test>", Notify: "SUCCESS,FAILURE", ORcpt: "rfc822;x@b.test"}, {To: "postmaster"}, {To: "y@b.test", Notify: "bad value"}},
	}
	for _, tc := range []struct {
		name   string
		ext    []string
		params string
		rcpts  []string
		dsn    bool
	}{
		{"all", nil, "SIZE=42 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+2B1", []string{"NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x@b.test", "", ""}, true},
		{"nothing", []string{}, "", []string{"", "", ""}, false},
		{"lower case, unlimited size", []string{"size 0", "8bitmime", "X-FOO bar"}, "SIZE=42 BODY=8BITMIME", []string{"", "", ""}, false},
		{"pipelining only", []string{"PIPELINING"}, "", []string{"", "", ""}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := smtptest.New(smtptest.Options{Extensions: tc.ext})
				defer s.Stop()
				c := connect(t, s, smtpc.Config{Hello: "mx.test"})
				res, err := c.Send(t.Context(), env, strings.NewReader("\xff\r\n"), nil)
				if err != nil || res.DSN != tc.dsn {
					t.Fatalf("error %v, DSN %v", err, res.DSN)
				}
				got := s.Transactions()[0]
				if got.From != `"a b>c"@example.org` || got.Params != tc.params || string(got.Body) != "\xff\r\n" {
					t.Errorf("from %q, parameters %q, body %q", got.From, got.Params, got.Body)
				}
				for i, r := range got.Recipients {
					if r.Params != tc.rcpts[i] || r.To != strings.Trim(env.Recipients[i].To, "<>") {
						t.Errorf("recipient %+v", r)
					}
				}
			})
		})
	}
}

func TestLocalRefusals(t *testing.T) {
	ascii, utf8 := []string{"PIPELINING", "SIZE 100"}, []string{"SMTPUTF8", "8BITMIME"}
	for _, tc := range []struct {
		name    string
		ext     []string
		from    string
		to      []string
		size    int64
		is      error
		codes   []string // for each recipient
		arrives int
	}{
		{"null sender", ascii, "", []string{"a@b.test"}, 0, nil, []string{"250 2.0.0"}, 1},
		{"null sender in brackets", ascii, "<>", []string{"a@b.test"}, 0, nil, []string{"250 2.0.0"}, 1},
		{"no recipients", ascii, "x@y.test", nil, 0, smtpc.ErrNoRecipients, nil, 0},
		{"injection in sender", ascii, "x@y.test>\r\nRCPT TO:<evil@z.test", []string{"a@b.test"}, 0, smtpc.ErrPath, []string{"501 5.1.7"}, 0},
		{"parameter in sender", ascii, "x@y.test> SIZE=1 <", []string{"a@b.test"}, 0, smtpc.ErrPath, []string{"501 5.1.7"}, 0},
		{"injection in recipient", ascii, "x@y.test", []string{"a@b.test>\r\nDATA\r\n<", "c@b.test", `"open@b.test`, "", strings.Repeat("x", 2000)}, 0, nil,
			[]string{"501 5.1.3", "250 2.0.0", "501 5.1.3", "501 5.1.3", "501 5.1.3"}, 1},
		{"all recipients malformed", ascii, "x@y.test", []string{"a b", "c\x00d"}, 0, nil, []string{"501 5.1.3", "501 5.1.3"}, 0},
		{"sender needs SMTPUTF8", ascii, "jörg@y.test", []string{"a@b.test"}, 0, smtpc.ErrNoSMTPUTF8, []string{"550 5.6.7"}, 0},
		{"recipient needs SMTPUTF8", ascii, "x@y.test", []string{"jörg@b.test", "a@b.test"}, 0, nil, []string{"553 5.6.7", "250 2.0.0"}, 1},
		{"SMTPUTF8 is there", utf8, "jörg@y.test", []string{"søren@b.test"}, 0, nil, []string{"250 2.0.0"}, 1},
		{"too large", ascii, "x@y.test", []string{"a@b.test"}, 101, smtpc.ErrTooLarge, []string{"552 5.3.4"}, 0},
		{"just not too large", ascii, "x@y.test", []string{"a@b.test"}, 100, nil, []string{"250 2.0.0"}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := smtptest.New(smtptest.Options{Extensions: tc.ext})
				defer s.Stop()
				c := connect(t, s, smtpc.Config{})
				env := envelope(tc.to...)
				env.From, env.Size = tc.from, tc.size
				res, err := c.Send(t.Context(), env, strings.NewReader("x\r\n"), nil)
				if !errors.Is(err, tc.is) {
					t.Errorf("error %v, want %v", err, tc.is)
				}
				for i, r := range res.Recipients {
					got := strings.TrimSpace(fmt.Sprintf("%d %s", r.Reply.Code, r.Reply.Enhanced))
					if got != tc.codes[i] || r.Accepted != (r.Reply.Code == 250) || r.Local == r.Accepted || r.Permanent() == r.Accepted {
						t.Errorf("recipient %d: %s %+v", i, got, r)
					}
				}
				if got := s.Transactions(); len(got) != tc.arrives || !c.Alive() {
					t.Errorf("%d messages, alive %v", len(got), c.Alive())
				}
			})
		})
	}
}

func TestRecipientsHaveTheirOwnVerdict(t *testing.T) {
	codes := map[string]string{"no@b.test": "550 5.1.1 no", "later@b.test": "451 4.2.1 later", "full@b.test": "452 4.2.2 full", "many@b.test": "452 4.5.3 many", "old@b.test": "552 many"}
	for _, ext := range [][]string{{"PIPELINING"}, {}} {
		synctest.Test(t, func(t *testing.T) {
			s := smtptest.New(smtptest.Options{Extensions: ext})
			defer s.Stop()
			s.Script(smtptest.Script{Rcpt: func(to string) smtptest.Action { return smtptest.Action{Reply: codes[to]} }})
			c := connect(t, s, smtpc.Config{})
			var to, taken []string
			for i := range 300 {
				a := fmt.Sprintf("user%d@b.test", i)
				to, taken = append(to, a), append(taken, a)
				if i == 150 {
					to = append(to, "no@b.test", "later@b.test", "full@b.test", "many@b.test", "old@b.test")
				}
			}
			res, err := c.Send(t.Context(), envelope(to...), strings.NewReader("x\r\n"), nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range res.Recipients {
				want, refused := codes[to[i]]
				if r.Accepted == refused || refused && !strings.HasPrefix(want, fmt.Sprint(r.Reply.Code)) {
					t.Errorf("%s: %+v", to[i], r)
				}
				if many := to[i] == "many@b.test" || to[i] == "old@b.test"; r.TooMany != many || many && r.Permanent() {
					t.Errorf("%s: %+v", to[i], r)
				}
				if r.Permanent() != (to[i] == "no@b.test") {
					t.Errorf("%s: permanent %v", to[i], r.Permanent())
				}
			}
			var got []string
			for _, r := range s.Transactions()[0].Recipients {
				got = append(got, r.To)
			}
			if !slices.Equal(got, taken) {
				t.Error("the server has other recipients")
			}
		})
	}
}

func TestServerEndsTheConversation(t *testing.T) {
	for _, ext := range [][]string{{"PIPELINING"}, {}} {
		for phase, want := range map[smtptest.Phase]smtpc.Phase{smtptest.Mail: smtpc.PhaseMail, smtptest.Rcpt: smtpc.PhaseRcpt, smtptest.Data: smtpc.PhaseData} {
			for _, a := range []smtptest.Action{{Reply: "421 4.3.2 bye"}, {Drop: true}, {Hang: true}} {
				t.Run(fmt.Sprint(ext, want, a.Reply, a.Hang), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := smtptest.New(smtptest.Options{Extensions: ext})
						defer s.Stop()
						s.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{phase: a}})
						c := connect(t, s, smtpc.Config{})
						res, err := c.Send(t.Context(), envelope("a@b.test", "c@b.test"), strings.NewReader("x\r\n"), nil)
						e := asError(t, err)
						if e.Phase != want || (e.Reply.Code == 421) != (a.Reply != "") || e.Timeout != a.Hang || res.Uncertain || c.Alive() {
							t.Errorf("error %+v, alive %v", e, c.Alive())
						}
						for _, r := range res.Recipients {
							if r.Accepted || r.Reply.Code != e.Reply.Code || r.Permanent() {
								t.Errorf("recipient %+v", r)
							}
						}
					})
				})
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := smtptest.New(smtptest.Options{})
		defer s.Stop()
		s.Script(smtptest.Script{MaxPerConn: 2})
		c := connect(t, s, smtpc.Config{})
		for i := range 3 {
			_, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("x\r\n"), nil)
			if (err == nil) != (i < 2) || c.Alive() != (i < 2) || c.Transactions() != i+1 {
				t.Errorf("message %d: %v, alive %v", i, err, c.Alive())
			}
		}
	})
}

// scripted plays the server: each line beginning with "S: " is said, each with
// "C: " must be heard. "S> " says without a line end but for those written \n. At the end the connection
// is closed.
func scripted(t *testing.T, script string) smtpc.Dialer {
	return func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			br := bufio.NewReader(theirs)
			for line := range strings.Lines(strings.TrimLeft(script, "\n")) {
				line = strings.TrimSuffix(line, "\n")
				switch text := line[3:]; line[:3] {
				case "S: ":
					fmt.Fprintf(theirs, "%s\r\n", text)
				case "S> ":
					fmt.Fprint(theirs, strings.ReplaceAll(text, `\n`, "\n"))
				case "C: ":
					got, err := br.ReadString('\n')
					if err != nil || got != text+"\r\n" {
						t.Errorf("client said %q (%v), want %q", got, err, text)
						return
					}
				}
			}
		}()
		return ours, nil
	}
}

const opening = "S: 220 hi\nC: EHLO localhost\nS: 250-h\nS: 250 PIPELINING\nC: MAIL FROM:<sender@example.org>\nC: RCPT TO:<a@b.test>\nC: DATA\n"

func TestConversations(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		phase        smtpc.Phase // 0: accepted
		code         int
		uncertain    bool
	}{
		{"usual", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nC: .\nS: 250 ok", 0, 250, false},
		{"lines end in LF", opening + `S> 250 ok\n` + "\nS: 250 ok\nS: 354 go\nC: x\nC: .\nS: 250", 0, 250, false},
		{"answer before the dot", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nS: 250 ok\nS: 250 ok", smtpc.PhaseBody, 0, false},
		{"answer with 354", opening + "S: 250 ok\nS: 250 ok\n" + `S> 354 go\n250 ok\n` + "\nC: x", smtpc.PhaseBody, 0, false},
		{"refusal before the dot", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nS: 554 5.6.0 no", smtpc.PhaseBody, 554, false},
		{"closing before the dot", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nS: 421 bye", smtpc.PhaseBody, 421, false},
		{"gone before the dot", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x", smtpc.PhaseBody, 0, false},
		{"refusal instead of reading", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nS: 552 5.3.4 no", smtpc.PhaseBody, 552, false},
		{"half an answer", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nC: .\nS> 250 o", smtpc.PhaseDot, 0, true},
		{"two codes in an answer", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nC: .\nS: 250-ok\nS: 550 no", smtpc.PhaseDot, 0, true},
		{"endless line", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nC: .\nS> 250 " + strings.Repeat("x", 3000), smtpc.PhaseDot, 0, true},
		{"endless reply", opening + "S: 250 ok\nS: 250 ok\nS: 354 go\nC: x\nC: .\n" + strings.Repeat("S: 250-x\n", 200) + "S: 250 x", smtpc.PhaseDot, 0, true},
		{"DATA answered 250", opening + "S: 250 ok\nS: 250 ok\nS: 250 ok", smtpc.PhaseData, 0, false},
		{"DATA answered 334", opening + "S: 250 ok\nS: 250 ok\nS: 334 ok", smtpc.PhaseData, 0, false},
		{"MAIL answered 354", opening + "S: 354 go", smtpc.PhaseMail, 0, false},
		{"MAIL refused, DATA taken, closed", opening + "S: 451 4.3.0 no\nS: 503 no\nS: 354 go\nC: .", smtpc.PhaseMail, 451, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := smtpc.Connect(t.Context(), smtpc.Target{Host: "h"}, smtpc.Config{Dial: scripted(t, tc.script)})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				pause := func(context.Context) error { time.Sleep(time.Second); return nil }
				res, err := c.Send(t.Context(), envelope("a@b.test"), strings.NewReader("x\r\n"), pause)
				if tc.phase == 0 {
					if err != nil || !res.Recipients[0].Accepted {
						t.Errorf("error %v", err)
					}
				} else if e := asError(t, err); e.Phase != tc.phase || e.Reply.Code != tc.code || res.Recipients[0].Accepted || c.Alive() {
					t.Errorf("error %+v", e)
				}
				if res.Uncertain != tc.uncertain {
					t.Errorf("uncertain %v", res.Uncertain)
				}
			})
		})
	}
}

func TestSlowlyDrippingReplyEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				for {
					if _, err := theirs.Write([]byte("2")); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			return ours, nil
		}
		began := time.Now()
		_, err := smtpc.Connect(t.Context(), smtpc.Target{Host: "h"}, smtpc.Config{Dial: dial})
		if e := asError(t, err); !e.Timeout || time.Since(began) != 30*time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		time.Sleep(2 * time.Second) // Lets the server notice.
	})
}

// TestLongEnvID: one that is longer than RFC 3461 §4.4 allows is left away.
func TestLongEnvID(t *testing.T) {
	for _, tt := range []struct {
		id   string
		want bool
	}{
		{strings.Repeat("e", 100), true}, {strings.Repeat("e", 101), false},
		{strings.Repeat("+2B", 100), true}, {strings.Repeat("+2B", 101), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := smtptest.New(smtptest.Options{})
			defer s.Stop()
			env := envelope("a@b.test")
			env.EnvID = tt.id
			if _, err := connect(t, s, smtpc.Config{}).Send(t.Context(), env, strings.NewReader("x\r\n"), nil); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(s.Transactions()[0].Params, "ENVID="); got != tt.want {
				t.Errorf("%d octets: sent %v", len(tt.id), got)
			}
		})
	}
}
