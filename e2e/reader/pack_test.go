package reader

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

// A bucket whose old segments are in packs, without the mail of a day that is over,
// whose keys are removed and whose log begins later, is read as any other; and
// damage in a pack or a floor is told.
func TestReaderReadsPacks(t *testing.T) {
	dir := t.TempDir()
	bucket, mail := filepath.Join(dir, "bucket"), map[string][]byte{}
	synctest.Test(t, func(t *testing.T) {
		pack(t, dir, mail)
	})
	out := filepath.Join(dir, "mail")
	_, stderr, code := run(t, "", bucket, "--root", filepath.Join(dir, "root.key"), "-o", out)
	if code != 0 || !strings.Contains(stderr, " 0 damaged") || !strings.Contains(stderr, " 75 events expired in part") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	got := files(t, out)
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(mail))) {
		t.Errorf("%d messages, want %d", len(got), len(mail))
	}
	for name, b := range got {
		if !bytes.Equal(b, mail[name]) {
			t.Errorf("%s differs", name)
		}
	}
	for name, raw := range files(t, bucket) {
		if !strings.HasPrefix(name, "pack/") && !strings.HasPrefix(name, "floor/") {
			continue
		}
		path := filepath.Join(bucket, filepath.FromSlash(name))
		for _, at := range []int{40, len(raw) / 2} {
			bad := bytes.Clone(raw)
			bad[at] ^= 4
			write(t, path, bad)
			if _, stderr, code := run(t, "", bucket, "--root", filepath.Join(dir, "root.key")); code == 0 || !strings.Contains(stderr, "DAMAGED") {
				t.Errorf("byte %d of %s: exit %d: %s", at, name, code, stderr)
			}
		}
		write(t, path, raw)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// pack makes the bucket and its root key in a directory, and tells what mail is
// to be read.
func pack(t *testing.T, dir string, mail map[string][]byte) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, b := t.Context(), mem.New()
	root, err := crypto.CreateRoot(filepath.Join(dir, "root.key"), event.DayOf(time.Now()))
	check(err)
	log, err := eventlog.Open(ctx, eventlog.Options{Bucket: b, URL: url, Keys: root, MayCreate: true, Partitions: 1})
	check(err)
	defer log.Close(ctx)
	var last event.Ref
	var lastText []byte
	send := func(n int, days event.Day) {
		for i := range n {
			time.Sleep(time.Minute)
			text := fmt.Appendf(nil, "Subject: %d of %d\r\n\r\ntext\r\n", i, days)
			ev := event.Event{ID: event.NewID(), Tenant: event.SystemTenant, Expiry: event.DayOf(log.Now()) + days}
			w, err := log.NewBody(ctx, ev.ID, ev.Tenant, ev.Expiry)
			check(err)
			_, err = w.Write(text)
			check(err)
			ev.Body, err = w.Finish()
			check(err)
			ev.Fact = &event.MessageAccepted{Origin: event.OriginInbound, Size: int64(len(text)), Recipients: 1,
				Meta: &event.MessageMeta{From: "a@b", SHA256: sha256.Sum256(text), Index: []byte{0xa0}}}
			pos, err := log.Append(ctx, ev)
			check(err)
			last, lastText = event.Ref{Position: pos, ID: ev.ID}, text
			if days > 2 {
				mail[ev.ID.String()+".eml"] = text
			}
		}
	}
	send(25, 2)
	_, err = log.Checkpoint(ctx, 0)
	check(err)
	at, err := log.CursorAt(ctx, 0, 25)
	check(err)
	send(100, 30)
	send(75, 2)
	kept, err := log.Keep(ctx, last, event.DayOf(log.Now())+30, event.KeptFiled)
	check(err)
	mail[kept.ID.String()+".eml"] = lastText
	time.Sleep(time.Hour)
	_, err = log.Pack(ctx, 0, eventlog.PackOptions{})
	check(err)
	time.Sleep(4 * 24 * time.Hour)
	today := event.DayOf(log.Now())
	check(root.AdvanceTo(today))
	log.Forget(today)
	check(log.RaiseStart(ctx, 0, at))
	_, err = log.Pack(ctx, 0, eventlog.PackOptions{Before: today})
	check(err)
	_, err = log.RemoveDays(ctx, today)
	check(err)
	for info, err := range b.List(ctx, "", "") {
		check(err)
		raw, _, err := objstore.ReadAll(ctx, b, info.Key, 1<<30)
		check(err)
		write(t, filepath.Join(dir, "bucket", filepath.FromSlash(info.Key)), raw)
	}
	if n, err := os.ReadDir(filepath.Join(dir, "bucket", "log", "00")); err != nil || len(n) > 20 {
		t.Errorf("%d segments have keys, %v", len(n), err)
	}
}
