package smtpc_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"holdfast/delivery/smtpc"
	"holdfast/delivery/smtpc/smtptest"
)

// TestErrorTextsQuoteNobody makes servers repeat the address in every refusal.
func TestErrorTextsQuoteNobody(t *testing.T) {
	const secret = "alice@acme.test"
	for _, at := range []smtptest.Phase{smtptest.Mail, smtptest.Data, smtptest.Dot} {
		for _, code := range []string{"250 ", "421 4.3.2 ", "451 ", "550 5.1.1 ", "3", "garbage "} {
			synctest.Test(t, func(t *testing.T) {
				s := smtptest.New(smtptest.Options{})
				defer s.Stop()
				s.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{at: {Reply: code + secret}}})
				c := connect(t, s, smtpc.Config{})
				_, err := c.Send(t.Context(), envelope(secret), strings.NewReader("x\r\n"), nil)
				if err != nil && strings.Contains(err.Error(), "alice") {
					t.Errorf("%s %s: %v", at, code, err)
				}
			})
		}
	}
	for _, from := range []string{secret + "\r\n", secret + ">", "<" + secret, strings.Repeat(secret, 100), `"` + secret, "ü" + secret} {
		synctest.Test(t, func(t *testing.T) {
			s := smtptest.New(smtptest.Options{Extensions: []string{}})
			defer s.Stop()
			env := envelope(secret)
			env.From = from
			_, err := connect(t, s, smtpc.Config{}).Send(t.Context(), env, strings.NewReader("x\r\n"), nil)
			if err == nil || strings.Contains(err.Error(), "alice") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTexts(t *testing.T) {
	r := smtpc.Reply{Code: 550, Enhanced: "5.1.1", Text: []string{"no", "such user"}}
	if got := r.String(); got != "550 5.1.1 no such user" {
		t.Errorf("Reply %q", got)
	}
	cause := errors.New("cause")
	for want, e := range map[string]*smtpc.Error{
		"smtp rcpt: 550 5.1.1":          {Phase: smtpc.PhaseRcpt, Reply: r},
		"smtp dot: cause":               {Phase: smtpc.PhaseDot, Err: cause},
		"smtp body: 421: cause":         {Phase: smtpc.PhaseBody, Reply: smtpc.Reply{Code: 421}, Err: cause},
		"smtp phase 99: 550 5.1.1":      {Phase: 99, Reply: r},
		"smtp connect: wrapped (cause)": {Phase: smtpc.PhaseConnect, Err: fmt.Errorf("wrapped (%w)", cause)},
	} {
		if got := e.Error(); got != want {
			t.Errorf("Error %q, want %q", got, want)
		}
		if e.Permanent() != (e.Reply.Code == 550) || errors.Is(e, cause) != (e.Err != nil) {
			t.Errorf("%v: permanent %v", e, e.Permanent())
		}
	}
}

func TestExtensions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := smtptest.New(smtptest.Options{Extensions: []string{"dsn", "SIZE", "X-OTHER", "PIPELINING"}})
		defer s.Stop()
		if got := connect(t, s, smtpc.Config{}).Extensions(); !slices.Equal(got, []string{"PIPELINING", "SIZE", "DSN"}) {
			t.Errorf("%v", got)
		}
	})
}

func BenchmarkSend(b *testing.B) {
	s := smtptest.Start(b, smtptest.Options{OnMessage: func(smtptest.Transaction) {}})
	for _, size := range []int{10 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			c, err := smtpc.Connect(b.Context(), target(s), smtpc.Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			body := strings.Repeat(strings.Repeat("x", 70)+"\r\n", size/72)
			env := envelope("a@b.test")
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Send(b.Context(), env, strings.NewReader(body), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
