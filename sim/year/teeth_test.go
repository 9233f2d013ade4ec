//go:build sabotage

package year

import (
	"testing"
	"testing/cryptotest"
	"testing/synctest"

	"holdfast/internal/sabotage"
)

// TestTeeth breaks the program in each way that shows only over days, and wants
// to hear of it.
func TestTeeth(t *testing.T) {
	defer sabotage.Commit(sabotage.None)
	for _, act := range sabotage.Slow() {
		t.Run(string(act), func(t *testing.T) {
			// What is broken shows in most lives, and in each life not everything.
			for seed := range uint64(5) {
				if noticed(t, act, 3+seed) {
					return
				}
			}
			t.Error("nobody noticed in five lives")
		})
	}
}

func noticed(t *testing.T, act sabotage.Act, seed uint64) (yes bool) {
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		w, err := New(Plan{Seed: seed, Days: 18, Daily: 25, Awake: 100, Enough: 1, Large: 5})
		if err != nil {
			t.Fatal(err)
		}
		sabotage.Commit(act)
		err = w.Live()
		sabotage.Commit(sabotage.None)
		if yes = len(w.Found) > 0 || err != nil; len(w.Found) > 0 {
			t.Logf("seed %d, day %d: %v", seed, w.Found[0].Day, w.Found[0])
		} else if err != nil {
			t.Logf("seed %d: life could not go on: %v", seed, err)
		}
	})
	return yes
}
