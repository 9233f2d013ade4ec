package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"

	"holdfast/crypto"
	"holdfast/directory"
	"holdfast/event"
	"holdfast/imapgw"
	"holdfast/imapgw/imapgwtest"
	"holdfast/objstore/mem"
	"holdfast/projection"
	"time"
)

// The mailboxes of a node do what the gateway asks of a backend.
func TestMailboxesAreABackend(t *testing.T) {
	imapgwtest.Run(t, func(t *testing.T) imapgw.Backend {
		cfg := DefaultConfig()
		cfg.Roles = []string{RoleDeliver}
		n, err := New(t.Context(), cfg, Seams{
			Bucket: mem.New(), Store: projection.NewMemStore(), Keys: crypto.MemoryRoot(event.DayOf(time.Now())),
			Listen: func(context.Context, string, string) (net.Listener, error) {
				return nil, errors.New("nothing listens here")
			},
			Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody is there") },
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ready, left := make(chan struct{}), make(chan error, 1)
		go func() { left <- n.Run(ctx, func() { close(ready) }) }()
		t.Cleanup(func() {
			stop()
			if err := <-left; err != nil {
				t.Error(err)
			}
		})
		select {
		case <-ready:
		case err := <-left:
			t.Fatal(err)
		}
		_, err = n.apply(ctx, ApplyRequest{File: directory.File{
			Domains: []directory.FileDomain{{Name: "acme.test", Tenant: "acme", Continuity: "always", Primary: []string{"smtp://primary.test:25"}}},
			Users:   []directory.FileUser{{Address: "alice@acme.test", Password: "secret"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return imapBackend{n}
	})
}
