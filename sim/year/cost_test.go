package year

import (
	"flag"
	"testing"
	"time"
)

var (
	cost     = flag.Int("cost", 50, "messages a day of TestCost")
	costDays = flag.Int("cost-days", 3, "days of TestCost")
	costPoll = flag.Duration("cost-poll", pollEvery, "how often nodes look for each other's segments in TestCost; in production every second")
)

// TestCost counts the requests of a day with mail, and of one without, when all
// that is done about a day is done: acceptance, delivery, expiry, packing, Bases.
// docs/performance.md has what it says for
// -cost-poll 1s and some -cost. The bounds are there to
// notice a request that came in by mistake.
func TestCost(t *testing.T) {
	days := *costDays
	plan := Plan{Seed: 5, Days: days, Daily: *cost, Awake: 1, Poll: *costPoll, Calm: true}
	began := time.Now()
	busy := live(t, plan)
	plan.Daily = 0
	idle := live(t, plan)
	if len(busy.Figures) != days || len(idle.Figures) != days {
		t.Fatal("the days did not come to their end")
	}
	with, without := busy.Figures[days-1], idle.Figures[days-1]
	mail := with.Spent.Minus(without.Spent)
	t.Logf("a day without mail, 2 nodes, 2 tenants, 2 partitions: %+v", without.Spent)
	t.Logf("a day with %d messages: %+v", *cost, with.Spent)
	t.Logf("the messages alone: %+v", mail)
	t.Logf("of that: %v", with.Kinds.Minus(without.Kinds))
	t.Logf("in the bucket: %d objects, %d bytes for %d messages of %d bytes", with.Objects, with.Stored, with.Mail, with.Bytes)
	t.Logf("rebuild: %+v; took %v", busy.Rebuild, time.Since(began).Round(time.Second))
	n := int64(*cost)
	if mail.Put <= 0 || mail.Put > 6*n || mail.Get > 40*n || mail.List > n+200 || mail.Delete > 6*n+200 {
		t.Errorf("a message costs more than it should: %+v for %d", mail, n)
	}
}
