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
			const seed = 3 // a hold on mail that is kept for three days comes early
			cryptotest.SetGlobalRandom(t, seed)
			synctest.Test(t, func(t *testing.T) {
				w, err := New(Plan{Seed: seed, Days: 18, Daily: 25, Awake: 100, Enough: 1, Large: 5})
				if err != nil {
					t.Fatal(err)
				}
				sabotage.Commit(act)
				err = w.Live()
				sabotage.Commit(sabotage.None)
				switch {
				case len(w.Found) > 0:
					t.Logf("on day %d: %v", w.Found[0].Day, w.Found[0])
				case err != nil:
					t.Logf("life could not go on: %v", err)
				default:
					t.Errorf("nobody noticed in %d days", len(w.Figures))
				}
			})
		})
	}
}
