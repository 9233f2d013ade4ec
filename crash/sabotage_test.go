package crash

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/crash/judge"
	"holdfast/internal/sabotage"
)

// TestABrokenNightIsNoticed: a program that forgets what it should keep past its
// day, or leaves what it should end, breaks promises that the judge sees. It takes
// a program of its own, so that it is part of make crash only.
func TestABrokenNightIsNoticed(t *testing.T) {
	if setting(t, "HOLDFAST_CRASH_WORLDS", 1) == 1 {
		return
	}
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "holdfast")
	if out, err := exec.Command("go", "build", "-tags", "failpoint sabotage", "-o", binary, "../cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("build holdfast: %v\n%s", err, out)
	}
	for _, act := range []sabotage.Act{
		sabotage.FiledForgotten, sabotage.HoldForgotten, sabotage.DueForgotten, sabotage.BlobLeft, sabotage.RatchetStays, sabotage.LeafLeft,
	} {
		t.Run(string(act), func(t *testing.T) {
			tally := NewTally()
			for n := range uint64(4) {
				opt := options(t, tally)
				opt.Binary, opt.Act, opt.Days = binary, act, true
				opt.Seed, opt.Turn, opt.Kills = n+1, int(n)*weeks, weekKills/2
				err := runWorld(t.Context(), opt)
				if broken, ok := errors.AsType[*Broken](err); ok {
					t.Logf("noticed in world %d after %d kills: %.300s", n+1, tally.Total, broken.Complaints[0])
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Errorf("%d kills, and nothing was noticed", tally.Total)
		})
	}
}

// falsifyDays changes what was seen in a world whose days passed, one thing at a
// time, and wants the judge to say so.
func falsifyDays(t *testing.T, dir string) {
	for name, c := range map[string]struct {
		change func(r *judge.Record)
		want   string
	}{
		"nothing":                {func(r *judge.Record) {}, ""},
		"a held message is gone": {func(r *judge.Record) { delete(r.Exported, done(r.Holds).Message) }, "is not found"},
		"an erased one opens":    {func(r *judge.Record) { opens(r, done(r.Erasures).Message) }, "was erased and opens"},
		"an erased one is shown": {func(r *judge.Record) { shows(r, done(r.Erasures).Message) }, "was erased and is there"},
		"what is over opens":     {func(r *judge.Record) { opens(r, over(r)) }, "is over and opens"},
		"what is over is shown":  {func(r *judge.Record) { shows(r, over(r)) }, "is over and is there"},
		"other bytes":            {func(r *judge.Record) { r.Exported[done(r.Holds).Message] = sum(nil) }, "other bytes"},
		"an object is left":      {func(r *judge.Record) { leave(t, dir) }, "is left of a day that is over"},
	} {
		rec := readRecord(t, dir)
		c.change(&rec)
		wrong, err := judge.Judge(t.Context(), &rec)
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(wrong, "\n"); c.want == "" && all != "" || !strings.Contains(all, c.want) {
			t.Errorf("%s: the judge says %q, want something about %q", name, all, c.want)
		}
		if err := os.RemoveAll(filepath.Join(dir, "bucket", "blob", "2001-01-01")); err != nil {
			t.Fatal(err)
		}
	}
}

// done returns the last order that was carried out: the one without faults.
func done(orders []judge.Order) judge.Order { return orders[len(orders)-1] }

// opens says that a message was found.
func opens(r *judge.Record, id string) { r.Exported[id] = sent(r, id).SHA256 }

func sent(r *judge.Record, id string) *judge.Sent {
	return &r.Sent[slices.IndexFunc(r.Sent, func(s judge.Sent) bool { return s.ID == id })]
}

// shows says that a message was seen at the end.
func shows(r *judge.Record, id string) {
	v := lastView(r)
	v.Messages[v.UIDNext] = judge.Message{Number: sent(r, id).Number()}
	v.UIDNext++
}

// over returns a message that is over: it cannot be found, and nobody erased it.
func over(r *judge.Record) string {
	erased := func(id string) bool {
		return slices.ContainsFunc(r.Erasures, func(o judge.Order) bool { return o.Message == id })
	}
	for _, s := range r.Sent {
		if s.Answer == judge.Kept && r.Exported[s.ID] == "" && !erased(s.ID) && !wanted(r, s) {
			return s.ID
		}
	}
	panic("nothing is over")
}

// wanted reports whether anybody may have filed or held a message.
func wanted(r *judge.Record, s judge.Sent) bool {
	if slices.ContainsFunc(r.Holds, func(o judge.Order) bool { return o.Message == s.ID }) {
		return true
	}
	uids := map[uint32]bool{}
	for _, step := range r.Steps {
		for uid, m := range step.Messages {
			uids[uid] = uids[uid] || m.Number == s.Number()
		}
	}
	return slices.ContainsFunc(r.Steps, func(step judge.Step) bool { return step.Kind != judge.View && uids[step.UID] })
}

// leave puts an object of a day that is over into the bucket.
func leave(t *testing.T, dir string) {
	day := filepath.Join(dir, "bucket", "blob", "2001-01-01", strings.Repeat("ab", 16))
	err := os.MkdirAll(day, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(day, "0000"), []byte("x"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
