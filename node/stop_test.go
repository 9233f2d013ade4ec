package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/directory"
	"holdfast/intake"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

// The worst that can be asked of a node: storage hangs, and so does a primary
// that has just been sent a final dot. The node leaves in time all the same.
func TestStopsInTimeWhenEverythingHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := fault.Wrap(mem.New())
		primary := smtptest.New(smtptest.Options{})
		primary.Script(smtptest.Script{At: map[smtptest.Phase]smtptest.Action{smtptest.Dot: {Hang: true}}})
		cfg := DefaultConfig()
		cfg.Keys.URL = "file:" + filepath.Join(t.TempDir(), "root.key")
		cfg.Roles = []string{RoleDeliver}
		n, err := New(t.Context(), cfg, Seams{
			Bucket: bucket, Store: projection.NewMemStore(), Dial: primary.Dial,
			Listen: func(context.Context, string, string) (net.Listener, error) {
				return nil, errors.New("nothing listens here")
			},
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ready, left := make(chan struct{}), make(chan error, 1)
		go func() { left <- n.Run(ctx, func() { close(ready) }) }()
		<-ready
		_, err = n.apply(ctx, ApplyRequest{File: directory.File{
			Domains: []directory.FileDomain{{Name: "acme.test", Tenant: "acme", Primary: []string{"smtp://primary.test:25"}}},
			Users:   []directory.FileUser{{Address: "alice@acme.test"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		tx := n.intake.Begin(intake.Peer{}, intake.Envelope{From: "a@b.test"})
		if err := tx.Rcpt(intake.Rcpt{Path: "alice@acme.test", Local: "alice", Domain: "acme.test"}); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Data(ctx, strings.NewReader("Subject: x\r\n\r\nx\r\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // the dot is out
		bucket.Inject(fault.Rule{Times: -1, Kind: fault.Hang})
		var looking sync.WaitGroup
		looking.Go(func() { _ = n.audit(ctx, "look", "", 0) }) // a put that nobody answers
		time.Sleep(time.Second)

		began := time.Now()
		cancel()
		if err := <-left; err != nil {
			t.Error(err)
		}
		took := time.Since(began)
		if took > 15*time.Second {
			t.Errorf("the node took %v to leave", took)
		}
		if took < 5*time.Second {
			t.Errorf("the node left after %v: nothing was under way, so this test shows nothing", took)
		}
		looking.Wait()
		primary.Stop()
		if err := bucket.Close(); err != nil {
			t.Error(err)
		}
	})
}
