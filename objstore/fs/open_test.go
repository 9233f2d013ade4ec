package fs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"holdfast/objstore"
)

// childDir and childJob tell a child process of the tests which bucket to open,
// and what to do with it.
const (
	childDir = "HOLDFAST_TEST_BUCKET"
	childJob = "HOLDFAST_TEST_JOB"
)

// TestMain is a child process of the tests when asked to be.
func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	b, err := Open(dir)
	if err != nil {
		fmt.Println("error", errors.Is(err, ErrLocked))
		os.Exit(1)
	}
	fmt.Println("open")
	if os.Getenv(childJob) == "put" {
		putForEver(b)
	}
	io.Copy(io.Discard, os.Stdin)
	b.Close()
	os.Exit(0)
}

// putForEver puts from several goroutines, and writes one line with the key
// after each Put that was confirmed.
func putForEver(b *Bucket) {
	for w := range 4 {
		go func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("log/%d/%d-%d", n%3, w, n)
				if _, err := put(b, key, strings.Repeat(key, 1000), objstore.PutOptions{IfAbsent: true}); err != nil {
					panic(err)
				}
				os.Stdout.WriteString(key + "\n")
			}
		}()
	}
	select {}
}

// TestKill kills a process in the middle of many Puts: what it confirmed is
// there, and what is there is whole.
func TestKill(t *testing.T) {
	for range 3 {
		dir := t.TempDir()
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childDir+"="+dir, childJob+"=put")
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var confirmed []string
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			confirmed = append(confirmed, lines.Text())
			if len(confirmed) == 30 {
				child.Process.Kill()
			}
		}
		_ = child.Wait() // It was killed.
		b := openTest(t, dir)
		for _, key := range confirmed[1:] { // The first line is not a key.
			wantValue(t, b, key, strings.Repeat(key, 1000))
		}
		keys := keysOf(t, b)
		for _, key := range keys {
			wantValue(t, b, key, strings.Repeat(key, 1000))
		}
		if len(confirmed) < 30 || len(keys) < len(confirmed)-1 || tmpFiles(t, b) != 0 {
			t.Errorf("%d confirmed, %d keys, %d temporary files", len(confirmed)-1, len(keys), tmpFiles(t, b))
		}
	}
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
