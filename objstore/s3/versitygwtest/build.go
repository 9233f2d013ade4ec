// Package versitygwtest runs a real S3 server, versitygw, for tests and
// benchmarks; or MinIO, where HOLDFAST_TEST_MINIO names its program.
//
// The server is built once from the module in tools/, which pins its version,
// into the user's cache directory; building takes minutes the first time and
// nothing afterwards. It listens on a loopback port chosen by the kernel and
// dies with the process that started it.
//
// versitygw does not fsync: what it confirmed survives its own death, not the
// machine's.
package versitygwtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	module      = "github.com/versity/versitygw"
	command     = module + "/cmd/versitygw"
	toolsModule = "module holdfast/tools"
)

// Build returns the path of the server's program, which it builds unless that
// was done before. It may be called by several processes at once: one builds, the
// others wait. The working directory must be inside the project.
func Build(ctx context.Context) (string, error) {
	tools, err := toolsDir()
	if err != nil {
		return "", fmt.Errorf("build versitygw: %w", err)
	}
	version, err := pinnedVersion(filepath.Join(tools, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("build versitygw: %w", err)
	}
	dir, err := cacheDir()
	if err != nil {
		return "", fmt.Errorf("build versitygw: %w", err)
	}
	program := filepath.Join(dir, "versitygw-"+version+"-"+runtime.Version())
	unlock, err := lockFile(program + ".lock")
	if err != nil {
		return "", fmt.Errorf("build versitygw: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	// Renamed only when complete, so that a killed build leaves nothing that
	// looks like a program.
	partial := program + ".partial"
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", partial, command)
	cmd.Dir = tools
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build versitygw: %w\n%s", err, out)
	}
	if err := os.Rename(partial, program); err != nil {
		return "", fmt.Errorf("build versitygw: %w", err)
	}
	return program, nil
}

// toolsDir finds the module of tools above the working directory.
func toolsDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		tools := filepath.Join(dir, "tools")
		text, err := os.ReadFile(filepath.Join(tools, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), toolsModule+"\n") {
			return tools, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("the working directory is not inside the project: no tools/go.mod above it")
		}
		dir = parent
	}
}

// pinnedVersion reads the server's version from a go.mod, and adds a digest of
// the file, since the versions of what the server is built from are there too.
func pinnedVersion(gomod string) (string, error) {
	text, err := os.ReadFile(gomod)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == module {
			return fmt.Sprintf("%s-%.4x", fields[1], sha256.Sum256(text)), nil
		}
	}
	return "", fmt.Errorf("%s does not require %s", gomod, module)
}

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir() // No home, as under some service managers.
	}
	dir := filepath.Join(base, "holdfast-tools")
	return dir, os.MkdirAll(dir, 0o755)
}

// lockFile waits for an exclusive lock, which ends with the process at the
// latest.
func lockFile(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	return func() { f.Close() }, nil
}
