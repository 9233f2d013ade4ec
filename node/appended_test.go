package node

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/continuity"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// ask sends a request to the admin socket and returns the answer.
func (w *dayWorld) ask(path string, req any) []byte {
	w.t.Helper()
	body, err := json.Marshal(req)
	if err != nil {
		w.t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	w.n.AdminHandler().ServeHTTP(rec, httptest.NewRequestWithContext(w.t.Context(), http.MethodPost, path, bytes.NewReader(body)))
	return rec.Body.Bytes()
}

// search returns the subjects that are found, as administrators see them, with what
// is exported of each.
func (w *dayWorld) search(s Selectors) map[string]string {
	w.t.Helper()
	bodies := map[string]string{}
	tr := tar.NewReader(bytes.NewReader(w.ask("/export", s)))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			w.t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			w.t.Fatal(err)
		}
		bodies[strings.TrimSuffix(h.Name, ".eml")] = string(text)
	}
	out := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(w.ask("/search", s))); ; {
		var row Row
		err := dec.Decode(&row)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil || row.ID == "" {
			w.t.Fatal(row, err)
		}
		out[row.Subject] = bodies[row.ID]
	}
}

// put puts a message into a mailbox, and returns its bytes.
func (w *dayWorld) put(u *continuity.User, mailbox, from, subject string) string {
	w.t.Helper()
	text := fmt.Sprintf("From: %s\r\nTo: carol@far.test\r\nSubject: %s\r\nMessage-ID: <%s@mua>\r\n\r\ntext\r\n", from, subject, subject)
	if _, _, err := u.Append(w.t.Context(), mailbox, int64(len(text)), strings.NewReader(text), nil, time.Time{}); err != nil {
		w.t.Fatal(err)
	}
	return text
}

// expunge empties a mailbox.
func (w *dayWorld) expunge(u *continuity.User, mailbox string) {
	w.t.Helper()
	s, err := u.Select(w.t.Context(), mailbox)
	if err != nil {
		w.t.Fatal(err)
	}
	defer s.Close()
	all := []event.UIDRange{{First: 1, Last: 1000}}
	if err = s.Store(w.t.Context(), all, event.FlagsAdd, []string{`\Deleted`}, 0, nil); err == nil {
		_, err = s.Expunge(w.t.Context(), all, nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// erases wants an erasure of one scope to be of so many messages, and returns
// where the log certifies it.
func (w *dayWorld) erases(s Scope, want int) string {
	w.t.Helper()
	answer := w.ask("/erase", EraseRequest{Reason: "r", Scope: s})
	var first, done EraseLine
	dec := json.NewDecoder(bytes.NewReader(answer))
	if err := errors.Join(dec.Decode(&first), dec.Decode(&done)); err != nil || !done.Done || done.Messages != want {
		w.t.Fatalf("erase %+v: %s", s, answer)
	}
	return first.Certificate
}

// TestHoldsReachWhatUsersAppend: what a user has put into a mailbox is under a hold
// like all mail of the user: it outlives its day and what the user does, and cannot
// be erased, until the hold is released.
func TestHoldsReachWhatUsersAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(23*time.Hour + 30*time.Minute)
		w := newDayWorld(t)
		alice, bob := w.user(), w.n.continuity.User(w.tenant, event.Account{2}, "bob@down.test", func() event.Day { return 1 }, 1<<20)
		if _, err := w.n.command(t.Context(), w.tenant, &event.UserSet{Account: event.Account{2}, Address: "bob@down.test"}); err != nil {
			t.Fatal(err)
		}
		texts := map[string]string{"copy": w.put(alice, "Sent", "alice@acme.test", "copy"), "draft": w.put(alice, "Drafts", "else@far.test", "draft")}
		w.put(bob, "Sent", "bob@down.test", "unheld")
		w.accept("acme.test", "letter", 100)
		var hold HoldAnswer
		answer := w.ask("/hold/add", HoldRequest{Name: "case", Reason: "r", Scope: Scope{User: "alice@acme.test"}})
		if err := json.Unmarshal(answer, &hold); err != nil || hold.Messages != 3 {
			t.Fatalf("hold: %s", answer)
		}
		w.expunge(alice, "Drafts")
		w.expunge(alice, "INBOX")
		ids := w.heldIDs()
		for _, s := range []Scope{
			{User: "alice@acme.test"}, {Domain: "acme.test"}, {Tenant: "acme"}, {Selectors: Selectors{MessageID: "copy@mua"}},
			{Domain: "far.test", Tenant: "acme"}, {Selectors: Selectors{IDs: ids[:1]}}, {Selectors: Selectors{IDs: ids}},
		} {
			if answer := string(w.ask("/erase", EraseRequest{Reason: "r", Scope: s})); !strings.Contains(answer, "refused") || !strings.Contains(answer, "by hold case") {
				t.Errorf("erase %+v: %s", s, answer)
			}
		}

		time.Sleep(25 * time.Hour)
		if err := w.n.retention.Work().Trouble; err != nil {
			t.Fatal(err)
		}
		check := func(when string) {
			t.Helper()
			if got := w.search(Selectors{State: "appended"}); len(got) != 2 || got["copy"] != texts["copy"] || got["draft"] != texts["draft"] {
				t.Errorf("%s, of what alice has put into mailboxes there is %q", when, got)
			}
			if got := w.search(Selectors{}); len(got) != 1 || !strings.Contains(got["letter"], "Subject: letter") {
				t.Errorf("%s, of what was sent there is %q", when, got)
			}
			if got := fmt.Sprint(w.box("INBOX"), w.box("Sent"), w.box("Drafts")); got != "[] [] []" {
				t.Errorf("%s, alice sees %s", when, got)
			}
		}
		check("after the last day")
		w.rebuilt()
		check("built anew")
		if answer := string(w.ask("/redeliver", RedeliverRequest{Selectors: Selectors{State: "appended"}})); !strings.Contains(answer, "put into a mailbox") {
			t.Errorf("redeliver: %s", answer)
		}
		if answer := w.ask("/prove", ProveRequest{ID: ids[0]}); !bytes.Contains(answer, []byte(texts["draft"])) {
			t.Errorf("prove: %.200q", answer)
		}

		// Released, it can be erased.
		if answer := w.ask("/hold/release", HoldRequest{Name: "case", Reason: "r"}); !bytes.Contains(answer, []byte("case")) {
			t.Fatalf("release: %s", answer)
		}
		check("released")
		w.erases(Scope{Selectors: Selectors{MessageID: "copy@mua"}}, 1)
		if got := w.search(Selectors{State: "appended"}); len(got) != 1 || got["draft"] == "" {
			t.Errorf("after the erasure there is %q", got)
		}
	})
}

// heldIDs returns the ids of what alice has put into mailboxes.
func (w *dayWorld) heldIDs() (ids []string) {
	w.t.Helper()
	for dec := json.NewDecoder(bytes.NewReader(w.ask("/search", Selectors{State: "appended", Rcpt: "alice@acme.test"}))); dec.More(); {
		var row Row
		if err := dec.Decode(&row); err != nil || !row.Appended() {
			w.t.Fatal(row, err)
		}
		ids = append(ids, row.ID)
	}
	return ids
}

// rebuilt starts the node with nothing, and wants the state that it had.
func (w *dayWorld) rebuilt() {
	w.t.Helper()
	hash := func() (sums [2][32]byte) {
		for i, name := range []string{"shadow", "continuity"} {
			err := w.n.runner.CaughtUp(w.t.Context())
			for p := range w.n.log.Partitions() {
				p := event.Partition(p)
				err = errors.Join(err, w.n.runner.WaitFor(w.t.Context(), name, event.Position{Partition: p, Seq: w.n.log.TailAtLeast(p)}))
			}
			if err == nil {
				sums[i], err = w.n.runner.Hash(w.t.Context(), name)
			}
			if err != nil {
				w.t.Fatal(err)
			}
		}
		return sums
	}
	before := hash()
	w.stop()
	w.store = projection.NewMemStore()
	w.start()
	time.Sleep(time.Minute)
	if hash() != before {
		w.t.Error("built anew, the index or the mailboxes are others")
	}
}

// TestErasuresReachWhatUsersAppend: by id, selectors, domain and user, in the
// mailboxes or expunged, with a certificate.
func TestErasuresReachWhatUsersAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDayWorld(t)
		alice := w.user()
		for _, scope := range []func(id string) Scope{
			func(id string) Scope { return Scope{Selectors: Selectors{IDs: []string{id}}} },
			func(string) Scope { return Scope{Selectors: Selectors{MessageID: "<wrong@mua>"}} },
			func(string) Scope { return Scope{Selectors: Selectors{Rcpt: "carol@far.test", State: "appended"}} },
			func(string) Scope { return Scope{Domain: "acme.test"} },
			func(string) Scope { return Scope{User: "alice@acme.test"} },
			func(string) Scope { return Scope{User: "alice@acme.test", Selectors: Selectors{Subject: "wrong"}} },
		} {
			for _, expunged := range []bool{false, true} {
				w.put(alice, "Drafts", "else@far.test", "wrong")
				ids := w.heldIDs()
				if len(ids) != 1 {
					t.Fatalf("%d messages are appended", len(ids))
				}
				row, err := w.n.message(t.Context(), ids[0])
				if err != nil {
					t.Fatal(err)
				}
				if expunged {
					w.expunge(alice, "Drafts")
				}
				s := scope(ids[0])
				cert, err := w.n.provable(t.Context(), w.erases(s, 1))
				if err != nil {
					t.Fatal(err)
				}
				rec, err := w.n.log.Event(t.Context(), cert)
				if err != nil {
					t.Fatal(err)
				}
				if items := rec.Fact.(*event.Erased).Items; len(items) != 1 || items[0].Message != row.ID || len(items[0].Digests) != 2 || !slices.Equal(items[0].Accounts, []event.Account{w.alice}) {
					t.Errorf("%+v: certified is %+v", s, items)
				}
				if got := w.box("Drafts"); len(got) != 0 {
					t.Errorf("%+v: alice has %q", s, got)
				}
				if err := opens(w.n.log, row.Ref); err == nil {
					t.Errorf("%+v: it opens", s)
				}
				l, err := eventlog.Open(t.Context(), eventlog.Options{Bucket: w.copied(), URL: "mem:", Keys: w.root, Inspect: true})
				if err != nil {
					t.Fatal(err)
				}
				if err := opens(l, row.Ref); err == nil {
					t.Errorf("%+v: it opens in a copy of the bucket", s)
				}
				l.Close(t.Context())
			}
		}
		w.rebuilt()
	})
}

// TestUnreadIsInDoubt: a message that could not be read when the index was built may
// be under a hold: at the end of its day it is named, and the day waits.
func TestUnreadIsInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(23*time.Hour + 30*time.Minute)
		w := newDayWorld(t)
		lost := w.accept("acme.test", "lost", 100)
		w.accept("acme.test", "plain", 100)
		if _, err := w.n.log.Erase(t.Context(), []event.Ref{lost}); err != nil { // which nobody has ordered
			t.Fatal(err)
		}
		w.stop()
		w.store = projection.NewMemStore()
		w.start()
		var hold HoldAnswer
		answer := w.ask("/hold/add", HoldRequest{Name: "case", Reason: "r", Scope: Scope{Selectors: Selectors{Subject: "litigation"}}})
		if err := json.Unmarshal(answer, &hold); err != nil || hold.Messages != 1 {
			t.Fatalf("hold: %s", answer)
		}
		time.Sleep(25 * time.Hour)
		work := w.n.retention.Work()
		if len(work.Stuck) != 1 || !slices.Equal(work.Stuck[0].Messages, []string{lost.ID.String()}) || work.Trouble == nil {
			t.Errorf("stuck: %+v, %v", work.Stuck, work.Trouble)
		}
		if got := w.search(Selectors{}); len(got) != 1 || got["plain"] == "" {
			t.Errorf("the day has not waited: %q", got)
		}
		w.ask("/hold/release", HoldRequest{Name: "case", Reason: "r"})
		time.Sleep(2 * time.Hour)
		if got, work := w.search(Selectors{}), w.n.retention.Work(); len(got) != 0 || work.Trouble != nil {
			t.Errorf("released: %q, %v", got, work.Trouble)
		}
	})
}
