package sim

import (
	"bytes"
	cryptorand "crypto/rand"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
)

// draws notices when two goroutines draw random bytes in one step: which of them
// is first is not up to the seed.
type draws struct {
	io.Reader
	bus *Bus

	mu    sync.Mutex
	step  int
	who   []byte
	stack []byte
	found map[string]int
}

func watchDraws(b *Bus) *draws {
	d := &draws{Reader: cryptorand.Reader, bus: b, found: map[string]int{}, step: -1}
	cryptorand.Reader = d
	return d
}

func (d *draws) Read(p []byte) (int, error) {
	stack := make([]byte, 16<<10)
	stack = stack[:runtime.Stack(stack, false)]
	who := bytes.Fields(stack)[1]
	d.bus.mu.Lock()
	step := d.bus.step
	d.bus.mu.Unlock()
	d.mu.Lock()
	if d.step == step && !bytes.Equal(who, d.who) {
		d.found[fmt.Sprintf("%s\n--- and ---\n%s", caller(d.stack), caller(stack))]++
	}
	d.step, d.who, d.stack = step, who, stack
	d.mu.Unlock()
	return d.Reader.Read(p)
}

func (d *draws) report(t *testing.T) {
	for what, n := range d.found {
		t.Errorf("%d times two goroutines drew random bytes in one step:\n%s", n, what)
	}
}

// caller shortens a stack to the functions of ours.
func caller(stack []byte) string {
	var out bytes.Buffer
	for _, line := range bytes.Split(stack, []byte("\n")) {
		if bytes.HasPrefix(line, []byte("holdfast/")) && !bytes.Contains(line, []byte("draws")) {
			out.Write(line[:min(len(line), 100)])
			out.WriteByte('\n')
		}
	}
	return out.String()
}
