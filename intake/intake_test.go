package intake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/message"
	"holdfast/objstore"
	"holdfast/objstore/fault"
	"holdfast/objstore/mem"
)

func TestRecipients(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		for _, c := range []struct {
			paths string
			want  error // of the last
		}{
			{"alice@acme.example", nil},
			{"ALICE@ACME.EXAMPLE", ErrUnknownRecipient}, // this directory minds case
			{"alice@ACME.example", nil},
			{"nobody@acme.example", ErrUnknownRecipient},
			{"someone@far.example", ErrNotOurs},
			{"anybody@any.example", nil},
			{"alice@acme.example anybody@any.example", ErrSecondTenant},
			{"nobody@acme.example anybody@any.example", nil}, // one that was refused binds nobody
			{"alice@acme.example x@long.example", nil},
			{"postmaster", nil},
		} {
			tx := h.Begin(peer, Envelope{})
			var err error
			for path := range strings.FieldsSeq(c.paths) {
				err = tx.Rcpt(rcpt(path))
			}
			wantErr(t, c.paths, err, c.want)
		}
	})
}

func TestOneTransactionIsOneEvent(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		const text = "Subject: x\r\n\r\nbody\r\n"
		tx := h.begin("alice@acme.example", "al@acme.example", "bob@acme.example", `"a b"@acme.example`, "postmaster", "x@long.example", "alice@acme.example")
		before := len(h.events())
		f, body := h.keep(tx, text)
		if n := len(h.events()); n != before+1 {
			t.Errorf("%d events", n-before)
		}
		if string(body) != text {
			t.Errorf("body %q", body)
		}
		var paths []string
		for _, r := range f.Meta.Recipients {
			paths = append(paths, r.Path+" for "+r.Domain)
		}
		want := []string{"alice@acme.example for acme.example", "al@acme.example for acme.example", "bob@acme.example for acme.example",
			`"a b"@acme.example for acme.example`, "postmaster for acme.example", "x@long.example for long.example"}
		if !slices.Equal(paths, want) || int(f.Recipients) != len(want) {
			t.Errorf("%d recipients %q", f.Recipients, paths)
		}
		inbox := []event.Allotment{{Account: alice, Place: event.PlaceInbox}, {Account: bob, Place: event.PlaceInbox}}
		if !slices.Equal(f.Allotments, inbox) {
			t.Errorf("allotments %+v", f.Allotments)
		}
		list := h.events()
		if got, want := list[len(list)-1].Expiry, event.DayOf(h.log.Now())+90; got != want {
			t.Errorf("expires on %v, want %v: the longest of its domains", got, want)
		}
		if f.Origin != event.OriginInbound || f.Meta.From != "sender@elsewhere.example" || f.Meta.Helo != "client.example" || f.Meta.Peer != "192.0.2.7" {
			t.Errorf("event %+v %+v", f, f.Meta)
		}
	})
}

func TestHops(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		h.cfg.Hops = 5
		hop := "Received: from a by b; Sat, 21 Nov 2026 10:00:00 +0000\r\n"
		h.keep(h.begin("alice@acme.example"), strings.Repeat(hop, 5)+"\r\n")
		n := len(h.events())
		_, err := h.begin("alice@acme.example").Data(t.Context(), strings.NewReader(strings.Repeat(hop, 6)+"\r\n"))
		wantErr(t, "six hops", err, ErrTooManyHops)
		if len(h.events()) != n {
			t.Error("what was refused is in the log")
		}
	})
}

func TestSenderBreaksOff(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		n := len(h.events())
		for size, times := range map[int64]int{0: 1, 100: 1, 300 << 10: 20, 5 << 20: 1} { // 20 are more than there are buffers
			for range times {
				body := io.MultiReader(filler(max(size, 20)), iotest.ErrReader(io.ErrUnexpectedEOF))
				_, err := h.begin("alice@acme.example").Data(t.Context(), body)
				wantErr(t, fmt.Sprint(size, " bytes"), err, io.ErrUnexpectedEOF)
				if isRefusal(err) {
					t.Errorf("%d bytes: refused for good: %v", size, err)
				}
			}
			tx := h.submit("bob@acme.example")
			_, err := tx.Data(t.Context(), io.MultiReader(strings.NewReader("From: alice@acme.example\r\n"), iotest.ErrReader(io.ErrUnexpectedEOF)))
			wantErr(t, "in a submitted header", err, io.ErrUnexpectedEOF)
			// A connection's error may hold io.EOF and is none.
			broken := fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, io.EOF)
			_, err = h.submit("bob@acme.example").Data(t.Context(), io.MultiReader(strings.NewReader("From: alice@acme.example\r\n"), iotest.ErrReader(broken)))
			wantErr(t, "in a submitted header, with an EOF", err, io.ErrUnexpectedEOF)
		}
		if len(h.events()) != n {
			t.Error("half a message is in the log")
		}
		h.keep(h.begin("alice@acme.example"), "Subject: x\r\n\r\n")
	})
}

func TestStorageHangs(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		rule fault.Rule
		warm bool // a message was let in before
		late bool // it lands when the sender has left
	}{
		{"at the key page", 100, fault.Rule{Op: fault.Put, KeyPrefix: "key/", Kind: fault.Hang, Times: -1}, false, false},
		{"at the segment", 100, fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.Hang, Times: -1}, true, true},
		{"at the last blob", 1 << 20, fault.Rule{Op: fault.Put, KeyPrefix: "blob/", Kind: fault.Hang, Times: -1}, true, false},
		{"at everything", 1 << 20, fault.Rule{Op: fault.Any, Kind: fault.Hang, Times: -1}, true, false},
		{"and lands late", 100, fault.Rule{Op: fault.Put, KeyPrefix: "log/", Kind: fault.LateLanding, Delay: time.Minute, Times: -1}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				faulty := fault.Wrap(mem.New())
				t.Cleanup(func() { faulty.Close() })
				h := newHouse(t, faulty)
				if c.warm {
					h.keep(h.begin("alice@acme.example"), "Subject: before\r\n\r\n")
				}
				rule := faulty.Inject(c.rule)
				begin := time.Now()
				id, err := h.begin("alice@acme.example").Data(t.Context(), filler(c.size))
				if took := time.Since(begin); err == nil || took > 30*time.Second {
					t.Errorf("%v after %v", err, took)
				}
				if isRefusal(err) {
					t.Errorf("refused for good: %v", err)
				}
				rule.Remove()
				time.Sleep(10 * time.Minute)
				// Whatever has landed is taken back.
				landed := false
				for _, r := range h.events() {
					landed = landed || r.Ref.ID == id
					if r.Ref.ID == id && !slices.ContainsFunc(h.events(), func(o eventlog.Recorded) bool {
						f, ok := o.Fact.(*event.Repudiated)
						return ok && f.Message == id && slices.Equal(f.Accounts, []event.Account{alice})
					}) {
						t.Error("the sender heard an error, and the message is there")
					}
				}
				if landed != c.late {
					t.Errorf("landed: %v", landed)
				}
				h.keep(h.begin("alice@acme.example"), "Subject: after\r\n\r\n")
			})
		})
	}
}

func TestStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faulty := fault.Wrap(mem.New())
		h := newHouse(t, faulty)
		n := len(h.events())
		for _, key := range []string{"key/", "log/", "blob/"} {
			for _, kind := range []fault.Kind{fault.FailBefore, fault.Full} {
				rule := faulty.Inject(fault.Rule{Op: fault.Put, KeyPrefix: key, Kind: kind, Times: -1})
				_, err := h.begin("alice@acme.example").Data(t.Context(), filler(1<<20))
				if err == nil || isRefusal(err) {
					t.Errorf("%s %d: %v", key, kind, err)
				}
				rule.Remove()
				if len(h.events()) != n {
					t.Fatalf("%s %d: something is in the log", key, kind)
				}
				if key == "key/" && kind == fault.Full {
					h.keep(h.begin("alice@acme.example"), "Subject: x\r\n\r\n")
					n = len(h.events())
				}
			}
		}
	})
}

func TestLargeBodiesReadBack(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		for _, n := range []int64{0, 1, 64 << 10, 256<<10 - 1, 256 << 10, 256<<10 + 1, 4 << 20, 9<<20 + 7} {
			want, err := io.ReadAll(io.LimitReader(filler(max(n, 20)), n))
			if err != nil {
				t.Fatal(err)
			}
			if _, got := h.keep(h.begin("alice@acme.example"), string(want)); !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back as %d", n, len(got))
			}
		}
	})
}

// corpus returns the hard messages.
func corpus(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir("../message/testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".eml" {
			return err
		}
		out[path], err = os.ReadFile(path)
		return err
	})
	if err != nil || len(out) < 50 {
		t.Fatalf("%d messages, %v", len(out), err)
	}
	return out
}

func TestHardMessagesReadBack(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		for path, want := range corpus(t) {
			f, got := h.keep(h.begin("alice@acme.example"), string(want))
			if !bytes.Equal(got, want) {
				t.Errorf("%s came back changed", path)
			}
			ix := new(message.Index)
			if err := event.Unmarshal(f.Meta.Index, ix); err != nil || ix.Size != f.Shown {
				t.Errorf("%s: index of %d bytes, shown are %d: %v", path, ix.Size, f.Shown, err)
			}
		}
	})
}

// The deepest index there can be must not be too deep for those who read it.
func TestDeepestMessageIsReadable(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		for _, part := range []string{
			"Content-Type: message/rfc822\r\n\r\n",
			"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%[1]d\r\n",
		} {
			var b strings.Builder
			b.WriteString("From: a@b\r\n")
			for i := range 200 {
				if strings.Contains(part, "%") {
					fmt.Fprintf(&b, part, i)
				} else {
					b.WriteString(part)
				}
			}
			b.WriteString("To: g: a@b, c@d;\r\nContent-Type: text/plain; a=b; c*=d\r\n\r\nend")
			f, _ := h.keep(h.begin("alice@acme.example"), b.String())
			if err := event.Unmarshal(f.Meta.Index, new(message.Index)); err != nil {
				t.Errorf("%q: %v", part, err)
			}
		}
	})
}

// discard keeps no blobs: what counts is what the process holds.
type discard struct{ objstore.Bucket }

func (d discard) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	if strings.HasPrefix(key, "blob/") {
		return objstore.Info{Key: key, Size: size, Modified: time.Now()}, nil
	}
	return d.Bucket.Put(ctx, key, body, size, opt)
}

func TestLargeMessagesTakeBoundedMemory(t *testing.T) {
	h := newHouse(t, discard{mem.New()})
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := h.begin("alice@acme.example").Data(context.Background(), filler(5<<20)); err != nil {
				t.Error(err)
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	peak := uint64(0)
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-tick.C:
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapInuse+now.StackInuse)
			continue
		case <-done:
		}
		tick.Stop()
		break
	}
	if grown := int64(peak) - int64(before.HeapInuse); grown > 150<<20 {
		t.Errorf("20 messages of 5 MB took %d MiB", grown>>20)
	}
}

func TestCallerLeaves(t *testing.T) {
	in(t, func(t *testing.T, h *house) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := h.begin("alice@acme.example").Data(ctx, strings.NewReader("x"))
		if err == nil || isRefusal(err) {
			t.Errorf("cancelled: %v", err)
		}
		if errors.Is(err, io.EOF) {
			t.Errorf("the end of the message is no error: %v", err)
		}
	})
}
