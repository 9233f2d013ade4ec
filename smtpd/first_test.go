package smtpd

import (
	"context"
	"net"
	"net/smtp"
	"testing"
)

func TestNetSMTPClient(t *testing.T) {
	m := &memory{}
	s, err := New(Config{Hostname: "mx.example", Mode: MX}, m)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), ln) }()
	msg := "Subject: hi\r\n\r\n..\r\n.x\r\nbye\r\n"
	if err := smtp.SendMail(ln.Addr().String(), nil, "a@example.com", []string{"b@example.com"}, []byte(msg)); err != nil {
		t.Fatal(err)
	}
	if got := string(m.all()[0].body); got != msg {
		t.Fatalf("got %q", got)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != ErrServerClosed {
		t.Fatal(err)
	}
}
