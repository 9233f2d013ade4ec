//go:build sabotage

package sabotage

import (
	"os"
	"sync"
)

// plot is what goes on: nothing, or in a program of its own what its environment
// says.
var plot = struct {
	sync.Mutex
	act   Act
	times uint64
}{act: Act(os.Getenv(VarAct))}

// Commit makes an act go on, and no other, until the next Commit.
func Commit(a Act) {
	plot.Lock()
	defer plot.Unlock()
	plot.act, plot.times = a, 0
}

// On reports whether an act goes on.
func On(a Act) bool {
	plot.Lock()
	defer plot.Unlock()
	return plot.act == a
}

// Count counts its calls while the act goes on, from 1; 0 while it does not.
func Count(a Act) uint64 {
	plot.Lock()
	defer plot.Unlock()
	if plot.act != a {
		return 0
	}
	plot.times++
	return plot.times
}
