package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/delivery"
	"holdfast/event"
)

// maxBalanceDays is how many of a domain's days the status lists one by one.
const maxBalanceDays = 35

// balance returns the balance sheet as the status shows it.
func balance(ctx context.Context, from func(context.Context) (*delivery.Sheet, error)) (*Balance, error) {
	sheet, err := from(ctx)
	if err != nil {
		return nil, err
	}
	b := &Balance{Balanced: sheet.Balanced(), Strays: sheet.Strays, Domains: []DomainBalance{}}
	var total, again delivery.Numbers
	for lines := sheet.Lines; len(lines) > 0; {
		end := 1
		for end < len(lines) && lines[end].Domain == lines[0].Domain && lines[end].Outbound == lines[0].Outbound {
			end++
		}
		b.Domains = append(b.Domains, domainBalance(lines[:end], &total, &again))
		lines = lines[end:]
	}
	b.Total, b.Redelivered = numbers(total), maybeNumbers(again)
	return b, nil
}

// domainBalance makes the part of one domain and direction, and adds it to the
// totals.
func domainBalance(lines []delivery.Line, total, again *delivery.Numbers) DomainBalance {
	d := DomainBalance{Domain: lines[0].Domain, Direction: direction(lines[0].Outbound), Days: []DayBalance{}}
	days := map[event.Day]*[2]delivery.Numbers{}
	var order []event.Day
	var sum [2]delivery.Numbers
	for _, l := range lines {
		side := 0
		if l.Again {
			side = 1
			again.Add(l.Numbers)
		} else {
			total.Add(l.Numbers)
		}
		sum[side].Add(l.Numbers)
		d.apart += apart(l)
		if days[l.Day] == nil {
			days[l.Day] = &[2]delivery.Numbers{}
			order = append(order, l.Day)
		}
		days[l.Day][side].Add(l.Numbers)
	}
	d.BalanceNumbers, d.Redelivered = numbers(sum[0]), maybeNumbers(sum[1])
	newest := lines[0].Day
	for _, day := range order {
		newest = max(newest, day)
	}
	var earlier [2]delivery.Numbers
	for _, day := range order {
		of := days[day]
		if day <= newest-maxBalanceDays && settled(of[0]) && settled(of[1]) {
			earlier[0].Add(of[0])
			earlier[1].Add(of[1])
			continue
		}
		d.Days = append(d.Days, DayBalance{Day: day.String(), BalanceNumbers: numbers(of[0]), Redelivered: maybeNumbers(of[1])})
	}
	slices.SortFunc(d.Days, func(a, b DayBalance) int { return cmp.Compare(a.Day, b.Day) })
	if earlier != ([2]delivery.Numbers{}) {
		d.Earlier = &DayBalance{BalanceNumbers: numbers(earlier[0]), Redelivered: maybeNumbers(earlier[1])}
	}
	return d
}

// settled reports that there is nothing left to happen, or to explain.
func settled(n delivery.Numbers) bool { return n.Due == 0 && n.Held == 0 && n.Difference() == 0 }

// apart is how far a line is from balancing, so that no line cancels another.
func apart(l delivery.Line) int64 { return max(l.Difference(), -l.Difference()) }

func direction(outbound bool) string {
	if outbound {
		return "out"
	}
	return "in"
}

func numbers(n delivery.Numbers) BalanceNumbers {
	return BalanceNumbers{
		Accepted: n.Accepted, Delivered: n.Delivered, Due: n.Due, Held: n.Held, Bounced: n.Bounced, Expired: n.Expired, Erased: n.Erased,
		Difference: n.Difference(), Notices: n.Notices, Uncertain: n.Uncertain, Repudiated: n.Repudiated,
	}
}

func maybeNumbers(n delivery.Numbers) *BalanceNumbers {
	if n == (delivery.Numbers{}) {
		return nil
	}
	b := numbers(n)
	return &b
}

// imbalance says what does not balance, for the warnings.
func (b *Balance) imbalance() string {
	where := ""
	for _, d := range b.Domains {
		if d.apart != 0 {
			where += fmt.Sprintf(" %s (%s): %d;", d.Domain, d.Direction, d.apart)
		}
	}
	return fmt.Sprintf("the balance sheet does not balance:%s %d entries of the queue are too many, too few or astray; the log is right and this node's queue is not: "+
		"stop the node, keep data_dir/db for an inquiry and move it away, and start: it is rebuilt from the log", where, b.Strays)
}

// recent keeps something that takes time to make, for the metrics and the status
// page, which anybody may ask for.
type recent[T any] struct {
	making atomic.Bool // others take the last one meanwhile

	mu    sync.Mutex // not held while one is made
	last  *T
	until time.Time
}

// What was made is used for some least time, and so long that making it takes no
// more than one part in recentShare of the time.
const (
	sheetAge    = 5 * time.Second
	recentShare = 20
)

// get returns one that may be as old as that.
func (r *recent[T]) get(ctx context.Context, least time.Duration, make func(context.Context) (*T, error)) (*T, error) {
	r.mu.Lock()
	last, until := r.last, r.until
	r.mu.Unlock()
	began := time.Now()
	if last != nil && (began.Before(until) || !r.making.CompareAndSwap(false, true)) {
		return last, nil
	}
	defer r.making.Store(false)
	made, err := make(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	r.mu.Lock()
	r.last, r.until = made, now.Add(max(least, recentShare*now.Sub(began)))
	r.mu.Unlock()
	return made, nil
}

// recentSheet returns a balance sheet that may be some seconds old: making one
// takes time in proportion to the queue.
func (n *Node) recentSheet(ctx context.Context) (*delivery.Sheet, error) {
	return n.sheets.get(ctx, sheetAge, n.delivery.Sheet)
}

var (
	descBalance    = prometheus.NewDesc("holdfast_balance_recipients", "Recipients by what became of them, from the log: accepted is the sum of the others but for repudiated.", []string{"domain", "direction", "kind", "state"}, nil)
	descDifference = prometheus.NewDesc("holdfast_balance_difference", "Accepted recipients that are in no state, or in two: always 0 unless the queue is wrong.", []string{"domain", "direction", "kind"}, nil)
	descStrays     = prometheus.NewDesc("holdfast_balance_strays", "Entries of the queue that are too many, too few or astray: always 0 unless the queue is wrong.", nil, nil)
)

// collectBalance gives the sheet's totals by domain and direction; kind is mail,
// or redelivery for what administrators ordered.
func (n *Node) collectBalance(gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	sheet, err := n.recentSheet(context.Background())
	if err != nil {
		return // a stopped projection is told elsewhere
	}
	gauge(descStrays, float64(sheet.Strays))
	type key struct {
		domain   string
		outbound bool
		again    bool
	}
	sums := map[key]*delivery.Numbers{}
	off := map[key]int64{}
	for _, l := range sheet.Lines {
		k := key{l.Domain, l.Outbound, l.Again}
		if sums[k] == nil {
			sums[k] = &delivery.Numbers{}
		}
		sums[k].Add(l.Numbers)
		off[k] += apart(l)
	}
	for k, s := range sums {
		labels := []string{k.domain, direction(k.outbound), "mail"}
		if k.again {
			labels[2] = "redelivery"
		}
		gauge(descDifference, float64(off[k]), labels...)
		for state, v := range map[string]int64{
			"accepted": s.Accepted, "delivered": s.Delivered, "due": s.Due, "held": s.Held, "bounced": s.Bounced, "expired": s.Expired,
			"erased": s.Erased, "repudiated": s.Repudiated,
		} {
			gauge(descBalance, float64(v), append(labels[:3:3], state)...)
		}
	}
}
