//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Hurry divides the time for which a dead node's lease is waited for: a program
// that is killed every second would never deliver anything.
const Hurry = 10

// Built says whether the program was built for crashing.
const Built = true

// armed is the plan of this process, read from the environment at the first hit.
var armed = sync.OnceValue(readPlan)

// plan says where the process dies and what it has reached.
type plan struct {
	mu   sync.Mutex
	at   Point
	left int // hits of at that are survived, and one
	file *os.File
	seen map[Point]bool
}

func readPlan() *plan {
	p := &plan{seen: map[Point]bool{}}
	if v := os.Getenv(VarPoint); v != "" {
		name, count, ok := strings.Cut(v, ":")
		n, err := strconv.Atoi(count)
		if !ok || err != nil || n < 1 {
			fail("%s is NAME:COUNT, not %q", VarPoint, v)
		}
		p.at, p.left = Point(name), n
	}
	if v := os.Getenv(VarSeen); v != "" {
		f, err := os.OpenFile(v, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			fail("%s: %v", VarSeen, err)
		}
		p.file = f
	}
	return p
}

// Hit notes that the program has got to a point, and kills it when this is where
// it is to die.
func Hit(at Point) {
	p := armed()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil && !p.seen[at] {
		p.seen[at] = true
		if _, err := p.file.WriteString(string(at) + "\n"); err != nil {
			fail("note %s: %v", at, err)
		}
	}
	if at != p.at {
		return
	}
	if p.left--; p.left > 0 {
		return
	}
	if p.file != nil {
		p.file.WriteString("KILL " + string(at) + "\n")
	}
	Kill()
}

// Kill ends the process as SIGKILL does, and does not return.
func Kill() {
	syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {} // until the signal gets here
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "failpoint: "+format+"\n", args...)
	os.Exit(1)
}
