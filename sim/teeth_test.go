//go:build sabotage

package sim

import (
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"

	"holdfast/internal/sabotage"
)

// TestTeeth breaks the program in each way, once a world has been set up, and
// wants to hear of it within a few worlds, from whomever.
func TestTeeth(t *testing.T) {
	const most = 64
	defer sabotage.Commit(sabotage.None)
	for _, act := range sabotage.All() {
		t.Run(string(act), func(t *testing.T) {
			for seed := range uint64(most) {
				if report := broken(t, 100+seed, act); report != "" {
					first, _, _ := strings.Cut(report, "\n")
					t.Logf("%d worlds: %s", seed+1, first)
					return
				}
			}
			t.Errorf("nobody noticed in %d worlds", most)
		})
	}
}

func broken(t *testing.T, seed uint64, act sabotage.Act) (report string) {
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		plan := PlanOf(seed)
		if act == sabotage.LateBlob { // large bodies are rare, and three tries at each have to fail
			plan.Size.Letters *= 5
			plan.faults.before, plan.faults.late = 0.3, 0.1
		}
		report = Run(seed, plan, nil, func(w *World) {
			w.Settled = func() { sabotage.Commit(act) }
		}).Report
		sabotage.Commit(sabotage.None)
	})
	return report
}
