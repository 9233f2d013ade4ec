package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
	"holdfast/projection"
)

// TestAHangingStoreIsTold by the status at once, and by /readyz when senders
// begin to hear 451.
func TestAHangingStoreIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := fault.Wrap(mem.New())
		cfg := DefaultConfig()
		cfg.Keys.URL = "file:" + filepath.Join(t.TempDir(), "root.key")
		cfg.Roles = []string{RoleDeliver}
		n, err := New(t.Context(), cfg, Seams{
			Bucket: bucket, Store: projection.NewMemStore(),
			Listen: func(context.Context, string, string) (net.Listener, error) {
				return nil, errors.New("nothing listens here")
			},
		}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ready, left := make(chan struct{}), make(chan error, 1)
		go func() { left <- n.Run(ctx, func() { close(ready) }) }()
		<-ready
		get := func(path string) (int, string) {
			w := httptest.NewRecorder()
			n.webHandler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			return w.Code, w.Body.String()
		}
		is := func(when string, code int, trouble bool) {
			t.Helper()
			if got, _ := get("/readyz"); got != code {
				t.Errorf("%s: /readyz answers %d, want %d", when, got, code)
			}
			s := n.Status(ctx)
			if (s.Store.Trouble != "") != trouble || strings.Contains(strings.Join(s.Warnings, "\n"), "storage takes nothing") != trouble {
				t.Errorf("%s: %+v, %q", when, s.Store, s.Warnings)
			}
			if _, body := get("/metrics"); strings.Contains(body, "\nholdfast_store_trouble_seconds 0\n") == trouble {
				t.Errorf("%s: the metric says otherwise", when)
			}
		}
		is("at first", 200, false)
		if code, body := get("/"); code != 200 || !strings.Contains(body, "0 accepted = 0 delivered") || !strings.HasSuffix(body, "</html>\n") {
			t.Errorf("the page answers %d: %s", code, body)
		}
		h := bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "log/", Times: -1, Kind: fault.Hang})
		var looking sync.WaitGroup
		looking.Go(func() { _ = n.audit(ctx, "look", "", 0) }) // a put that nobody answers
		time.Sleep(10 * time.Second)
		is("while it hangs", 200, true)
		time.Sleep(time.Minute)
		is("when it has hung for long", 503, true)
		h.Remove()
		time.Sleep(time.Minute)
		is("when it answers again", 200, false)
		looking.Wait()
		cancel()
		if err := <-left; err != nil {
			t.Error(err)
		}
		if err := bucket.Close(); err != nil {
			t.Error(err)
		}
	})
}
