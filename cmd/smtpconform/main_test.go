package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"holdfast/smtpd/conformance"
)

// TestRun holds a few conversations with a sink, which is no conforming server.
func TestRun(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- new(conformance.Sink).Serve(ctx, ln) }()
	defer func() { cancel(); <-done }()
	for _, tt := range []struct {
		args  string
		want  string // in the output
		fails error
	}{
		{"-run ^commands/quit -v", "passes      must   commands/quit at once", nil},
		{"-run commands/ehlo.ends.a.transaction$", "fails       must   commands/ehlo ends a transaction", errFails},
		{"-run ^boundaries/reset.at.once$", "give -sink", nil},
		{"-run ^boundaries/reset.at.once$ -sink 127.0.0.1:0 -settle 1ms", "all          1", nil},
		{"-list -run ^commands/quit.at.once$", "commands/quit at once (RFC 5321 §4.1.1.10)", nil},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append([]string{"-addr", ln.Addr().String(), "-rcpt", "*@example.org"}, strings.Fields(tt.args)...)
			if err := run(t.Context(), args, &out, &errs); !errors.Is(err, tt.fails) {
				t.Errorf("%v: %s", err, errs.String())
			}
			if !strings.Contains(out.String(), tt.want) {
				t.Errorf("output %q", out.String())
			}
		})
	}
}

// TestUsage sees that what makes no sense is refused.
func TestUsage(t *testing.T) {
	for _, args := range []string{"", "-addr a:1", "-addr a:1 -rcpt x@y.example more", "-addr a:1 -rcpt x@y.example -run ("} {
		var out bytes.Buffer
		if err := run(t.Context(), strings.Fields(args), &out, &out); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
