//go:build sabotage

package world

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/sabotage"
	"holdfast/objstore/fault"
	"holdfast/sim/check"
)

// bite says by which judge an act of sabotage is to be noticed, in which weather.
type bite struct {
	act   sabotage.Act
	rules []string // one of them must find something
	bad   weather
}

var (
	fair   = weather{}
	stormy = weather{rates: storm()}
	// silent: the store often does not answer, or late.
	silent = weather{rates: fault.Rates{fault.LateLanding: 0.05, fault.Hang: 0.25}}
	// slow: parts of large bodies take their time.
	slow = weather{rules: []fault.Rule{{Op: fault.Put, KeyPrefix: "blob/", Kind: fault.Delay, Delay: 3 * time.Second, Times: -1}}}
	// lossy: many segments are put again.
	lossy = weather{rates: fault.Rates{fault.LateLanding: 0.15, fault.LostAnswer: 0.1}}
)

func bites() []bite {
	return []bite{
		{sabotage.Early250, []string{"acceptance"}, fair},
		{sabotage.Unrepudiated, []string{"acceptance"}, silent},
		{sabotage.LostRace, []string{"acceptance", "sound", "folds"}, fair},
		{sabotage.AmbiguousLanded, []string{"acceptance", "sound", "folds"}, lossy},
		{sabotage.LateBlob, []string{"acceptance"}, slow},
		{sabotage.CutAccepted, []string{"acceptance"}, fair},
		{sabotage.ShortBody, []string{"acceptance"}, fair},
		{sabotage.NoIntent, []string{"delivery"}, fair},
		{sabotage.Unmarked, []string{"delivery"}, stormy},
		{sabotage.OutcomeDropped, []string{"delivery"}, fair},
		{sabotage.BounceDropped, []string{"delivery"}, fair},
		{sabotage.QueueDropped, []string{"at rest", "delivery", "balance"}, fair},
		{sabotage.LoseWakeUp, []string{"at rest"}, fair},
		{sabotage.LoseTail, []string{"at rest"}, fair},
		{sabotage.LoseIdle, []string{"at rest"}, fair},
		{sabotage.LoseDue, []string{"at rest"}, fair},
		{sabotage.UIDFromMemory, []string{"folds", "mailboxes"}, fair},
		{sabotage.FoldByClock, []string{"folds"}, fair},
		{sabotage.FlagForgotten, []string{"mailboxes"}, fair},
		{sabotage.ExpungeUndone, []string{"mailboxes"}, fair},
		{sabotage.PlainDatabase, []string{"legible"}, fair},
		{sabotage.PlainBucket, []string{"legible"}, fair},
		{sabotage.SwapUnseen, []string{"sound"}, fair},
		{sabotage.KeptTooLong, []string{"retained"}, fair},
		{sabotage.LedgerSlip, []string{"balance"}, fair},
	}
}

// TestTeeth breaks the program in each way and wants to hear of it from the judge
// whose matter it is, within a few worlds.
func TestTeeth(t *testing.T) {
	defer sabotage.Commit(sabotage.None)
	var done []sabotage.Act
	for _, b := range bites() {
		done = append(done, b.act)
		t.Run(string(b.act), func(t *testing.T) {
			const most = 20
			began := time.Now()
			for seed := range uint64(most) {
				found := caught(t, seed, b)
				if len(found) > 0 {
					t.Logf("%d seeds, %v: %v", seed+1, time.Since(began).Round(time.Millisecond), found[0])
					return
				}
			}
			t.Errorf("nobody of %v noticed in %d worlds", b.rules, most)
		})
	}
	for _, a := range sabotage.All() {
		if !slices.Contains(done, a) {
			t.Errorf("nobody tries %s", a)
		}
	}
}

// caught plays a world with an act going on once everybody lives in it, and
// returns what its judges found.
func caught(t *testing.T, seed uint64, b bite) (found []check.Finding) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 2)
		s.quiet = true
		s.settled = func() { sabotage.Commit(b.act) }
		size := Small()
		switch b.act {
		case sabotage.BounceDropped: // a refusal for good that is not one among many is rare
			size.Letters, size.Moods = 4*size.Letters, 4*size.Moods
		case sabotage.LateBlob:
			size.Large = 40
		case sabotage.Unrepudiated: // so is a put that lands after its 451
			size.Senders = 16
		}
		all, h := s.play(seed, size, b.bad)
		sabotage.Commit(sabotage.None)
		rules := map[string]int{}
		for _, f := range all {
			rules[f.Rule]++
			if slices.Contains(b.rules, f.Rule) {
				found = append(found, f)
			}
		}
		t.Log(fmt.Sprint("seed ", seed, ": ", rules, " ", check.Report(nil, &h)))
	})
	return found
}
