package shadow

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"holdfast/event"
	"holdfast/projection"
)

// secrets are in the mail of these tests and nowhere else.
var secrets = []string{"zebedee", "quagmire", "Wombat", "wombat", "partner-of-ours", "xylophone", "42-kumquat", "Sat, 31 Oct 2026"}

// fillSecret appends enough mail for full blocks, a full group and a tail.
func fillSecret(log *memLog) {
	for i := range blockRows*groupBlocks + 45 {
		m := mail{tenant: acme, at: noon + event.Millis(i), days: 30, from: "zebedee@partner-of-ours.example", to: []string{"quagmire@acme.test"}, text: fmt.Sprintf(
			"From: zebedee@partner-of-ours.example\r\nTo: quagmire@acme.test\r\nSubject: Wombat xylophone %d\r\nMessage-ID: <42-kumquat-%d@x>\r\nDate: Sat, 31 Oct 2026 12:00:00 +0000\r\n\r\n", i, i)}
		ev := m.accepted()
		log.append(ev, settled(acme, event.Outcome{Unit: event.Unit{Source: ev.ID}, Result: event.ResultDelivered}))
	}
}

// TestNothingReadable looks for what mail says in what is stored: in the values
// before the database encrypts them, and in the database's files.
func TestNothingReadable(t *testing.T) {
	log := newMemLog(1)
	fillSecret(log)
	st := projection.NewMemStore()
	n := startNode(t, st, log)
	if got := n.ids(t, Query{Subject: "wombat", Rcpt: "quagmire@acme.test", Limit: MaxLimit}); len(got) != blockRows*groupBlocks+45 {
		t.Fatalf("%d messages are found", len(got))
	}
	snap, err := st.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	items := 0
	for it, err := range snap.Scan(nil, nil, false) {
		if err != nil {
			t.Fatal(err)
		}
		items++
		refuse(t, "a key", it.Key)
		refuse(t, "the value of a key", it.Value)
	}
	snap.Close()
	if items < blockRows*groupBlocks {
		t.Errorf("looked at %d items only", items)
	}

	dir := filepath.Join(t.TempDir(), "db")
	badger, err := projection.OpenBadger(projection.BadgerOptions{Dir: dir, Key: bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	n = startNode(t, badger, log)
	n.hash(t)
	n.stop()
	if err := badger.Close(); err != nil {
		t.Fatal(err)
	}
	read := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		read += len(b)
		refuse(t, filepath.Base(path), b)
		if bytes.Contains(b, []byte("acme.test")) {
			t.Errorf("%s names the tenant's domain", path)
		}
		return err
	})
	if err != nil || read < 1<<16 {
		t.Errorf("read %d bytes of files, %v", read, err)
	}
}

func refuse(t *testing.T, what string, b []byte) {
	t.Helper()
	for _, s := range secrets {
		if bytes.Contains(b, []byte(s)) {
			t.Errorf("%s of %d bytes has %q", what, len(b), s)
		}
	}
}
