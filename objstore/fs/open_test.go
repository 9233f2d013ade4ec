package fs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// childDir tells a child process of the test which bucket to hold open.
const childDir = "HOLDFAST_TEST_BUCKET"

// TestMain is the child process of TestSecondProcess when asked to: it opens the
// bucket, says so, and holds it until its standard input ends.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		b, err := Open(dir)
		if err != nil {
			fmt.Println("error", errors.Is(err, ErrLocked))
			os.Exit(1)
		}
		fmt.Println("open")
		io.Copy(io.Discard, os.Stdin)
		b.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestSecondProcess(t *testing.T) {
	dir := t.TempDir()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open in this process: %v", err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	out, err := child.Output()
	if err == nil || string(out) != "error true\n" {
		t.Fatalf("second process opened the bucket, or failed otherwise: %q, %v", out, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), childDir+"="+dir)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	stdout, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("open\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("Open while another process holds it: %v", err)
	}
	// A killed process leaves no lock behind.
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // It was killed.
	openTest(t, dir)
}

func TestOpenSweepsTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, b, "log/1", "kept")
	if n := tmpFiles(t, b); n != 0 {
		t.Errorf("%d temporary files after a Put", n)
	}
	b.Close()
	for i := range 3 {
		if err := os.WriteFile(filepath.Join(dir, tmpName, fmt.Sprint(i)), []byte("never acknowledged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b = openTest(t, dir)
	if n := tmpFiles(t, b); n != 0 {
		t.Errorf("%d temporary files after Open", n)
	}
	wantValue(t, b, "log/1", "kept")
	if keys := keysOf(t, b); !slices.Equal(keys, []string{"log/1"}) {
		t.Errorf("listed %q", keys)
	}
}

func TestModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "missing", "parents")
	b := openTest(t, dir)
	mustPut(t, b, "log/00/1", "x")
	for name, want := range map[string]os.FileMode{
		"": os.ModeDir | 0o700, "log": os.ModeDir | 0o700, "log/00": os.ModeDir | 0o700,
		"log/00/1": 0o600, tmpName: os.ModeDir | 0o700, lockName: 0o600,
	} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != want {
			t.Errorf("mode of %q is %v, want %v", name, fi.Mode(), want)
		}
	}
}
