package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/e2e/outside"
)

// TestEverythingArrivesOnce sends mail of every kind while the primary is up.
// Each message arrives once and byte for byte, the archive gives back what was
// sent, and nothing of it can be read at rest or in the log, during or after.
func TestEverythingArrivesOnce(t *testing.T) {
	for _, store := range []string{"fs", "s3"} {
		t.Run(store, func(t *testing.T) {
			s := open(t, setting{s3: store == "s3", users: secretUsers()})
			residue := needles(t)
			watch := s.watchForResidue(residue)
			sent := s.sendEverything(pick(450, 4500))
			s.awaitDrained(2 * time.Minute)
			s.checkPrimary(sent)
			s.checkReceipts(sent)
			s.checkExport(sent)
			s.must("log", "verify")
			watch()
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
			s.checkResidue(residue)
		})
	}
}

// mailing is one message that got 250.
type mailing struct {
	name  string
	to    []string
	bytes []byte
	reply string
}

// sendEverything sends n mail-like messages and all the hard ones, over several
// connections at once. Every one has to be accepted.
func (s *scene) sendEverything(n int) []mailing {
	s.t.Helper()
	users := secretUsers()
	recipients := [][]string{
		{users[0].Address}, {users[1].Address}, {users[0].Aliases[0]}, {users[0].Address, users[1].Address},
	}
	var all []mailing
	for i, raw := range residueMail(n) {
		all = append(all, mailing{name: fmt.Sprintf("mail %d", i), to: recipients[i%len(recipients)], bytes: raw})
	}
	hard := hardMail(s.t)
	for i, name := range slices.Sorted(maps.Keys(hard)) {
		all = append(all, mailing{name: name, to: recipients[i%len(recipients)], bytes: hard[name]})
	}
	const connections = 8
	var wg sync.WaitGroup
	for c := range connections {
		wg.Go(func() {
			conn, err := outside.DialSMTP(s.t.Context(), s.SMTP)
			if err != nil {
				s.t.Error(err)
				return
			}
			defer conn.Quit()
			for i := c; i < len(all); i += connections {
				reply, err := conn.Send(secretSender, all[i].to, all[i].bytes)
				if err != nil {
					s.t.Errorf("%s: %v", all[i].name, err)
					return
				}
				all[i].reply = reply
			}
		})
	}
	wg.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	return all
}

// checkPrimary compares what the primary got with what was sent, as multisets:
// the corpus may hold one message twice.
func (s *scene) checkPrimary(sent []mailing) {
	s.t.Helper()
	names, balance := map[string]string{}, map[string]int{}
	for _, m := range sent {
		for _, to := range m.to {
			key := digest(outside.AsDelivered(m.bytes)) + " to " + to
			names[key] = m.name
			balance[key]++
		}
	}
	for _, tx := range s.primary.Transactions() {
		rest, ok := outside.CutReceived(tx.Body)
		if !ok {
			s.t.Errorf("a message of %d bytes arrived without a Received field on top", len(tx.Body))
		}
		for _, r := range tx.Recipients {
			key := digest(rest) + " to " + r.To
			if _, known := names[key]; !known {
				s.t.Errorf("the primary got %d bytes for %s that nobody sent so: %.300q", len(rest), r.To, rest)
			}
			balance[key]--
		}
	}
	for key, n := range balance {
		switch {
		case n > 0:
			s.t.Errorf("%q is missing at the primary %d times", names[key], n)
		case n < 0 && names[key] != "":
			s.t.Errorf("%q arrived %d times too often", names[key], -n)
		}
	}
}

// found is one row of `shadow search --json`.
type found struct {
	ID       string    `json:"id"`
	Received time.Time `json:"received"`
	From     string    `json:"from"`
	Rcpt     []string  `json:"rcpt"`
	Subject  string    `json:"subject"`
	State    []string  `json:"state"`
	Size     int       `json:"size"`
}

// search runs a search and returns its rows.
func (s *scene) search(selectors ...string) []found {
	s.t.Helper()
	out := s.must(append([]string{"shadow", "search", "--json"}, selectors...)...)
	var rows []found
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var f found
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			s.t.Fatalf("search %v: %v in %q", selectors, err, lines.Text())
		}
		if len(f.Rcpt) != len(f.State) {
			s.t.Errorf("search %v: %d recipients and %d states", selectors, len(f.Rcpt), len(f.State))
		}
		rows = append(rows, f)
	}
	return rows
}

// searchAll pages through everything that matches, newest first.
func (s *scene) searchAll(selectors ...string) []found {
	s.t.Helper()
	const page = 200
	var all []found
	args := append(slices.Clone(selectors), "--limit", fmt.Sprint(page))
	rows := s.search(args...)
	for len(rows) > 0 {
		all = append(all, rows...)
		if len(rows) > page {
			s.t.Fatalf("a page of %d has %d rows", page, len(rows))
		}
		rows = s.search(append(args, "--after", rows[len(rows)-1].ID)...)
		if len(all) > 1_000_000 {
			s.t.Fatal("paging does not end")
		}
	}
	for i := range len(all) - 1 {
		if all[i].Received.Before(all[i+1].Received) {
			s.t.Errorf("row %d is older than the row after it", i)
		}
	}
	return all
}

// checkReceipts: every message is in the archive once, under the id of its 250,
// delivered to every recipient.
func (s *scene) checkReceipts(sent []mailing) {
	s.t.Helper()
	rows := map[string]found{}
	for _, row := range s.searchAll("--since", "1h") {
		if _, twice := rows[row.ID]; twice {
			s.t.Errorf("search lists %s twice", row.ID)
		}
		rows[row.ID] = row
		for i, state := range row.State {
			if state != "delivered" {
				s.t.Errorf("%s is %s to %s, want delivered", row.ID, state, row.Rcpt[i])
			}
		}
	}
	if len(rows) != len(sent) {
		s.t.Errorf("the archive has %d messages, want %d", len(rows), len(sent))
	}
	for _, m := range sent {
		if row, ok := rows[idIn(m.reply, rows)]; !ok {
			s.t.Errorf("%s: no id of the archive in the reply %q", m.name, m.reply)
		} else if row.Size != len(outside.AsSent(m.bytes)) || len(row.Rcpt) != len(m.to) {
			s.t.Errorf("%s: size %d for %d recipients, want %d for %d", m.name, row.Size, len(row.Rcpt), len(outside.AsSent(m.bytes)), len(m.to))
		}
	}
}

// idIn finds the word of a reply that is an id.
func idIn(reply string, ids map[string]found) string {
	for _, word := range strings.FieldsFunc(reply, func(r rune) bool { return strings.ContainsRune(" =<>[]();,", r) }) {
		if _, ok := ids[word]; ok {
			return word
		}
	}
	return ""
}

// checkExport: the archive gives back every message exactly as it was sent.
func (s *scene) checkExport(sent []mailing) {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "export")
	s.must("export", "--since", "1h", "-o", dir)
	want := map[string]int{}
	for _, m := range sent {
		want[digest(outside.AsSent(m.bytes))]++
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		want[digest(data)]--
	}
	for _, m := range sent {
		if n := want[digest(outside.AsSent(m.bytes))]; n != 0 {
			s.t.Errorf("%s: exported %d times too few", m.name, n)
		}
	}
	if len(files) != len(sent) {
		s.t.Errorf("%d files exported, want %d", len(files), len(sent))
	}
}

// watchForResidue looks for remains over and over until the function it returns
// is called, which also fails if there was no look at all.
func (s *scene) watchForResidue(r *outside.Residue) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	looks := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			s.checkResidue(r)
			looks++
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	})
	return func() {
		s.t.Helper()
		cancel()
		wg.Wait()
		s.t.Logf("looked for remains %d times while the node ran", looks)
		if looks == 0 {
			s.t.Error("never looked for remains while the node ran")
		}
	}
}

// checkResidue looks for remains wherever the node writes.
func (s *scene) checkResidue(r *outside.Residue) {
	remains, err := r.Files(s.DataDir(), s.bucketDir(), s.tmp)
	if err != nil {
		s.t.Error(err)
	}
	remains = append(remains, r.Bytes("the log output", []byte(s.Log()))...)
	for _, found := range remains {
		s.t.Errorf("readable at rest: %s", found)
	}
}
