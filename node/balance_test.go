package node

import (
	"strings"
	"testing"

	"holdfast/delivery"
	"holdfast/event"
)

// TestBalanceOfManyDays lists the last days, those that are not over, and the
// sum of the rest.
func TestBalanceOfManyDays(t *testing.T) {
	var lines []delivery.Line
	for day := range event.Day(100) {
		n := delivery.Numbers{Accepted: 2, Delivered: 2}
		switch day {
		case 3:
			n = delivery.Numbers{Accepted: 2, Delivered: 1, Held: 1}
		case 4:
			n = delivery.Numbers{Accepted: 2, Delivered: 1} // one is missing
		case 5:
			n = delivery.Numbers{Accepted: 1, Delivered: 2} // one is too many
		}
		lines = append(lines, delivery.Line{Domain: "a.test", Day: day, Numbers: n})
	}
	lines = append(lines, delivery.Line{Domain: "a.test", Day: 99, Again: true, Numbers: delivery.Numbers{Accepted: 1, Due: 1}})
	var total, again delivery.Numbers
	d := domainBalance(lines, &total, &again)
	if len(d.Days) != maxBalanceDays+3 || d.Days[0].Day != event.Day(3).String() || d.Days[3].Day != event.Day(65).String() {
		t.Errorf("%d days from %s", len(d.Days), d.Days[0].Day)
	}
	if e := d.Earlier; e == nil || e.Accepted != 2*62 || e.Difference != 0 || e.Redelivered != nil {
		t.Errorf("earlier: %+v", e)
	}
	if total.Accepted != 199 || again.Due != 1 || d.Accepted != 199 || d.Redelivered == nil || d.Redelivered.Due != 1 {
		t.Errorf("total %+v, again %+v, of the domain %+v", total, again, d)
	}
	if d.Difference != 0 || d.apart != 2 {
		t.Errorf("difference %d, apart %d: one day must not hide another", d.Difference, d.apart)
	}
	if text := (&Balance{Domains: []DomainBalance{d}}).imbalance(); !strings.Contains(text, "a.test (in): 2;") {
		t.Error(text)
	}
}
