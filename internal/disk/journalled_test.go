//go:build failpoint

package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/internal/disk/journal"
)

// TestMain gives the process its journal, which is opened at the first call.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "disk")
	if err != nil {
		panic(err)
	}
	os.Setenv(VarJournal, filepath.Join(dir, "journal"))
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestEveryCallIsJournalled makes each call that changes the file system, and then
// takes the power away: of what was not fsynced nothing is left, and what was is.
func TestEveryCallIsJournalled(t *testing.T) {
	top := filepath.Join(filepath.Dir(os.Getenv(VarJournal)), "top")
	check(t, os.Mkdir(top, 0o700))
	write := func(f *File, err error) {
		t.Helper()
		check(t, err)
		_, err = f.Write([]byte("text"))
		check(t, err)
		check(t, f.Sync())
		check(t, f.Close())
	}
	const fresh = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	root, err := OpenRoot(top)
	check(t, err)
	dir, err := root.Open(".")
	check(t, err)

	check(t, MakeDirs(filepath.Join(top, "durable", "deep")))
	write(root.OpenFile("kept", fresh, 0o600))
	write(root.OpenFile("kept2", fresh, 0o600))
	write(CreateAt(dir, "kept3", "kept3"))
	write(CreateAt(dir, "cut", "cut"))
	check(t, dir.Sync())

	check(t, root.Mkdir("lost-dir", 0o700))
	check(t, Mkdir(filepath.Join(top, "lost-dir2"), 0o700))
	write(OpenFile(filepath.Join(top, "lost"), fresh, 0o600))
	write(CreateAt(dir, "lost2", "lost2"))
	check(t, root.Link("kept", "lost3"))
	check(t, Link(filepath.Join(top, "kept"), filepath.Join(top, "lost4")))
	check(t, LinkAt(dir, "kept", dir, "lost5"))
	check(t, root.Rename("kept", "lost6"))
	check(t, Rename(filepath.Join(top, "kept2"), filepath.Join(top, "lost7")))
	check(t, RenameAt(dir, "lost5", dir, "kept3"))
	check(t, root.Remove("lost3"))
	check(t, Remove(filepath.Join(top, "lost4")))
	check(t, UnlinkAt(dir, "lost6"))

	f, err := OpenFile(filepath.Join(top, "cut"), os.O_WRONLY|os.O_TRUNC, 0o600)
	check(t, err)
	_, err = f.Write([]byte("lost"))
	check(t, err)
	check(t, f.Close())

	report, err := journal.Lose(os.Getenv(VarJournal), nil, true)
	check(t, err)
	entries, err := os.ReadDir(top)
	check(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if strings.Join(names, " ") != "cut durable kept kept2 kept3" {
		t.Errorf("left are %v; %+v", names, report)
	}
	if text, err := os.ReadFile(filepath.Join(top, "cut")); err != nil || len(text) != 0 {
		t.Errorf("cut: %q, %v", text, err)
	}
	for _, name := range []string{"kept", "kept2", "kept3"} {
		if text, err := os.ReadFile(filepath.Join(top, name)); err != nil || string(text) != "text" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if _, err := os.Stat(filepath.Join(top, "durable", "deep")); err != nil {
		t.Error(err)
	}
}

// TestUnknownFlagsPanic: a file that is opened in a way that the journal cannot
// follow must not go unnoticed.
func TestUnknownFlagsPanic(t *testing.T) {
	for _, flag := range []int{os.O_APPEND, unix.O_DIRECT} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("flag %#x is taken", flag)
				}
			}()
			OpenFile(filepath.Join(t.TempDir(), "f"), os.O_WRONLY|os.O_CREATE|flag, 0o600)
		}()
	}
}
