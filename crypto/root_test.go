package crypto

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/event"
)

func rootPath(t *testing.T) string { return filepath.Join(t.TempDir(), "root.key") }

func mustCreate(t *testing.T, path string) *Root {
	t.Helper()
	r, err := CreateRoot(path, today)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustLoad(t *testing.T, path string) *Root {
	t.Helper()
	r, err := LoadRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustAdvance(t *testing.T, r *Root, day event.Day) {
	t.Helper()
	if err := r.AdvanceTo(day); err != nil {
		t.Fatal(err)
	}
}

// onlyFile fails unless path is the one file in its directory, with mode 0600.
func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("directory holds %v, %v; want the root key alone", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func sameRoot(t *testing.T, a, b *Root) {
	t.Helper()
	if *a.state.fixed.key != *b.state.fixed.key || a.state.day != b.state.day || *a.state.ratchet.key != *b.state.ratchet.key {
		t.Error("the roots differ")
	}
}

func TestRootFile(t *testing.T) {
	path := rootPath(t)
	if _, err := LoadRoot(path); !errors.Is(err, ErrNoRoot) {
		t.Errorf("load a missing root: %v, want ErrNoRoot", err)
	}
	r := mustCreate(t, path)
	onlyFile(t, path)
	sameRoot(t, r, mustLoad(t, path))
	if _, err := CreateRoot(path, today); !errors.Is(err, ErrRootExists) {
		t.Errorf("create over a root: %v, want ErrRootExists", err)
	}
	sameRoot(t, r, mustLoad(t, path))
	onlyFile(t, path)
}

func TestRootFileModes(t *testing.T) {
	path := rootPath(t)
	mustCreate(t, path)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadRoot(path); !errors.Is(err, ErrReadableByOthers) {
			t.Errorf("mode %#o: %v, want ErrReadableByOthers", mode, err)
		}
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, path)
}

func TestRootFileDamaged(t *testing.T) {
	path := rootPath(t)
	mustCreate(t, path)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin := bytes.Index(good, []byte("-----BEGIN"))
	for i := begin; i < len(good)-1; i++ {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := LoadRoot(path); !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d (%q) changed: %v, %v", i, good[i], r, err)
		}
		if err := os.WriteFile(path, good[:i], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadRoot(path); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

func TestStaleTemporaryFileIsSwept(t *testing.T) {
	path := rootPath(t)
	if err := os.WriteFile(path+".new", []byte("half a root"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := mustCreate(t, path)
	onlyFile(t, path)
	if err := os.WriteFile(path+".new", []byte("half a root"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustAdvance(t, r, today+1)
	onlyFile(t, path)
}

func TestRatchet(t *testing.T) {
	path := rootPath(t)
	r := mustCreate(t, path)
	wrapped, err := r.NewTenant(t.Context(), testTenant, testLog)
	if err != nil {
		t.Fatal(err)
	}
	open := func(r *Root) world {
		keys, err := r.OpenTenant(t.Context(), testTenant, testLog, wrapped)
		if err != nil {
			t.Fatal(err)
		}
		return world{r, keys}
	}
	w := open(r)
	before := w.day(t, today+30).Public().Bytes()
	if _, err := r.DayPair(t.Context(), w.tenant, today-1); !errors.Is(err, ErrExpired) {
		t.Errorf("yesterday's pair: %v, want ErrExpired", err)
	}
	if _, err := r.DayPair(t.Context(), w.tenant, today+maxAhead+1); !errors.Is(err, ErrTooFar) {
		t.Errorf("a pair far ahead: %v, want ErrTooFar", err)
	}
	mustAdvance(t, r, today+30)
	for name, w := range map[string]world{"live": open(r), "loaded": open(mustLoad(t, path))} {
		if !bytes.Equal(before, w.day(t, today+30).Public().Bytes()) {
			t.Errorf("%s: the day's pair changed as the ratchet moved to it", name)
		}
		if _, err := w.root.DayPair(t.Context(), w.tenant, today+29); !errors.Is(err, ErrExpired) {
			t.Errorf("%s: the day before: %v, want ErrExpired", name, err)
		}
		if w.root.Day() != today+30 {
			t.Errorf("%s: ratchet at %v", name, w.root.Day())
		}
	}
	mustAdvance(t, r, today) // never goes back
	if r.Day() != today+30 {
		t.Errorf("the ratchet went back to %v", r.Day())
	}
	if err := r.AdvanceTo(today + 31 + maxAhead); !errors.Is(err, ErrTooFar) || r.Day() != today+30 {
		t.Errorf("advance too far: %v, stands at %v", err, r.Day())
	}
	onlyFile(t, path)
}

func TestAdvanceForgets(t *testing.T) {
	path := rootPath(t)
	r := mustCreate(t, path)
	old := *r.state.ratchet.key
	held := r.state.ratchet
	mustAdvance(t, r, today+1)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := decodeRootFile(file)
	if err != nil || *s.ratchet.key == old {
		t.Errorf("the file keeps the old ratchet (%v)", err)
	}
	if *held.key == old || *r.state.ratchet.key == old {
		t.Error("memory keeps the old ratchet")
	}
}

// A node and a command share the file: neither undoes what the other wrote.
func TestTwoProcessesShareTheRootFile(t *testing.T) {
	path := rootPath(t)
	node := mustCreate(t, path)
	command := mustLoad(t, path)
	mustAdvance(t, node, today+5)
	if node.BackupMade() {
		t.Error("a backup that was never made")
	}
	if err := command.MarkBackedUp(time.Unix(1_800_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	if got := mustLoad(t, path); got.Day() != today+5 || !got.BackupMade() {
		t.Errorf("the file stands at %v, backup %v", got.Day(), got.BackupMade())
	}
	if !node.BackupMade() {
		t.Error("the node does not see the backup")
	}
	mustAdvance(t, node, today+6)
	if got := mustLoad(t, path); got.Day() != today+6 || !got.BackupMade() {
		t.Errorf("the file stands at %v, backup %v", got.Day(), got.BackupMade())
	}
}

func TestRootFileReplacedOrGone(t *testing.T) {
	path := rootPath(t)
	r := mustCreate(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := r.AdvanceTo(today + 1); !errors.Is(err, ErrNoRoot) {
		t.Errorf("advance without a file: %v, want ErrNoRoot", err)
	}
	mustCreate(t, path)
	if err := r.AdvanceTo(today + 1); !errors.Is(err, ErrRootChanged) {
		t.Errorf("advance another root's file: %v, want ErrRootChanged", err)
	}
	if r.Day() != today {
		t.Errorf("the ratchet moved to %v without its file", r.Day())
	}
}

func TestRootConcurrently(t *testing.T) {
	path := rootPath(t)
	r := mustCreate(t, path)
	wrapped, _ := r.NewTenant(t.Context(), testTenant, testLog)
	keys, err := r.OpenTenant(t.Context(), testTenant, testLog, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	want := world{r, keys}.day(t, today+9).Public().Bytes()
	var wg sync.WaitGroup
	for i := range event.Day(8) {
		wg.Go(func() {
			if err := r.AdvanceTo(today + i); err != nil {
				t.Errorf("advance: %v", err)
			}
			pair, err := r.DayPair(t.Context(), keys, today+9)
			if err != nil || !bytes.Equal(pair.Public().Bytes(), want) {
				t.Errorf("a pair derived while the ratchet moves: %v", err)
			}
		})
	}
	wg.Wait()
	if got := mustLoad(t, path).Day(); got != today+7 {
		t.Errorf("the file stands at %v, want %v", got, today+7)
	}
}

func TestBackup(t *testing.T) {
	path := rootPath(t)
	r := mustCreate(t, path)
	mustAdvance(t, r, today+3)
	var out bytes.Buffer
	if err := r.Backup(&out, nil, time.Now()); !errors.Is(err, ErrPassphrase) {
		t.Errorf("backup without a passphrase: %v", err)
	}
	if err := r.backup(&out, []byte("correct horse"), time.Unix(1_800_000_000, 0), cheap()); err != nil {
		t.Fatal(err)
	}
	text := out.Bytes()
	if bytes.Contains(text, r.state.fixed.bytes()) {
		t.Fatal("the backup holds the fixed secret")
	}
	if _, err := RestoreRoot(path, bytes.NewReader(text), []byte("correct horse")); !errors.Is(err, ErrRootExists) {
		t.Errorf("restore over a root: %v, want ErrRootExists", err)
	}
	other := rootPath(t)
	if _, err := RestoreRoot(other, bytes.NewReader(text), []byte("wrong horse")); !errors.Is(err, ErrPassphrase) {
		t.Errorf("restore with a wrong passphrase: %v, want ErrPassphrase", err)
	}
	if _, err := os.Stat(other); !os.IsNotExist(err) {
		t.Errorf("a failed restore left a file: %v", err)
	}
	restored, err := RestoreRoot(other, bytes.NewReader(text), []byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	onlyFile(t, other)
	sameRoot(t, r, restored)
	sameRoot(t, r, mustLoad(t, other))
	if !restored.BackupMade() || !mustLoad(t, other).BackupMade() {
		t.Error("a restored root does not know of its backup")
	}
	crlf := bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	if _, err := RestoreRoot(rootPath(t), bytes.NewReader(crlf), []byte("correct horse")); err != nil {
		t.Errorf("a backup with CRLF line ends: %v", err)
	}
}

func TestBackupAsksForItsCost(t *testing.T) {
	var out bytes.Buffer
	if err := MemoryRoot(today).Backup(&out, []byte("x"), time.Now()); err != nil {
		t.Fatal(err)
	}
	b, err := decodeBackup(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if cost, err := readCost(b); err != nil || cost != backupCost() {
		t.Errorf("a backup is made at the cost %+v, %v", cost, err)
	}
}

// cheap is a cost for tests, which guess often.
func cheap() argonCost { return argonCost{time: 2, memory: 32, threads: 4} }

func TestBackupBoundsItsCost(t *testing.T) {
	var out bytes.Buffer
	if err := MemoryRoot(today).backup(&out, []byte("x"), time.Now(), cheap()); err != nil {
		t.Fatal(err)
	}
	good, err := decodeBackup(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(b []byte){
		"no time":        func(b []byte) { clear(b[1:5]) },
		"much time":      func(b []byte) { b[1] = 0xff },
		"much memory":    func(b []byte) { b[5] = 0xff },
		"little memory":  func(b []byte) { clear(b[5:9]); b[8] = 31 },
		"no threads":     func(b []byte) { b[9] = 0 },
		"many threads":   func(b []byte) { b[9] = 255 },
		"other version":  func(b []byte) { b[0]++ },
		"version zero":   func(b []byte) { b[0] = 0 },
		"all of it zero": func(b []byte) { clear(b) },
	} {
		bad := bytes.Clone(good)
		change(bad)
		if _, err := openBackup(armorBackup(bad), []byte("x")); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	for _, i := range []int{4, 12, 30, 40, backupSize - 1} {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := openBackup(armorBackup(bad), []byte("x")); !errors.Is(err, ErrPassphrase) {
			t.Errorf("byte %d changed: %v, want ErrPassphrase", i, err)
		}
	}
}

func TestRootRemembersItsLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	r, err := CreateRoot(path, 20000)
	if err != nil {
		t.Fatal(err)
	}
	if _, used := r.Used(); used {
		t.Error("a new root is used")
	}
	first := event.LogID{1}
	if err := r.MarkUsed(first); err != nil {
		t.Fatal(err)
	}
	if err := r.MarkUsed(event.LogID{2}); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := r.Backup(&backup, []byte("pass"), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	again, err := LoadRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	restored, err := RestoreRoot(filepath.Join(t.TempDir(), "root.key"), &backup, []byte("pass"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Root{r, again, restored} {
		if log, used := r.Used(); !used || log != first {
			t.Errorf("the root remembers %v, %v", log, used)
		}
	}
}
