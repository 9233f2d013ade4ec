package delivery

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/delivery/smtpc/smtptest"
	"holdfast/event"
	"holdfast/objstore/fault"
)

// TestRandom lets everything go wrong at once, by seed, and then checks that
// each accepted message reached each of its recipients, and more than once only
// where that is said. DELIVERY_SEEDS is how many seeds to try.
func TestRandom(t *testing.T) {
	seeds := 8
	if testing.Short() {
		seeds = 3
	}
	if n, err := strconv.Atoi(os.Getenv("DELIVERY_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runRandom(t, seed) })
		})
	}
}

func runRandom(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	w := newWorld(t)
	w.sites[0].DotTimeout = 5 * time.Second
	nodes := 1 + int(seed%2)
	if nodes > 1 {
		w.poll = time.Second
	}
	var all []*node
	for range nodes {
		all = append(all, w.start())
		time.Sleep(time.Second)
	}
	sent := 0
	for range 40 {
		i := rng.IntN(len(all))
		switch rng.IntN(13) {
		case 0:
			all[i].vanish()
			time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
			all[i] = w.start()
		case 1:
			all[i].stop()
			all[i] = w.start()
		case 2:
			all[i].bucket.Chance(rng.Uint64(), fault.Rates{
				fault.FailBefore: .03, fault.FailAfter: .03, fault.LostAnswer: .03, fault.LateLanding: .02, fault.Delay: .1, fault.TornRead: .02,
			}, 3*time.Second)
		case 3:
			h := all[i].bucket.Inject(fault.Rule{Kind: fault.Hang, Times: -1})
			time.Sleep(time.Duration(rng.IntN(40)) * time.Second)
			h.Remove()
		case 4:
			w.mx().Stop()
			time.Sleep(time.Duration(rng.IntN(8000)) * time.Millisecond)
			w.mx().Resume()
		case 5, 6:
			w.mx().Script(randomScript(rng))
		case 7: // the lease is lost, and the rest goes on
			h := all[i].bucket.Inject(fault.Rule{Op: fault.Put, KeyPrefix: "lease/", Kind: fault.Hang, Times: -1})
			time.Sleep(time.Duration(rng.IntN(40)) * time.Second)
			h.Remove()
		case 8:
			w.mx().Script(smtptest.Script{})
			all[i].bucket.Clear()
		default:
			sent += feed(all[i], rng, sent)
		}
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
	}
	for _, n := range all {
		n.bucket.Clear()
	}
	w.mx().Script(smtptest.Script{})
	sent += feed(all[0], rng, sent)
	time.Sleep(2 * time.Second)
	took := all[0].drained(2 * time.Hour)
	t.Logf("%d messages, drained after %v", len(w.accepted), took)
	time.Sleep(time.Minute)
	if left, held := all[0].units(), all[0].status().Held; left != int(held) {
		t.Errorf("%d units are left, %d held", left, held)
	}
	w.judge(all[0])
	for _, n := range all {
		n.balanced()
		n.stop()
	}
}

// feed offers some messages at a time.
func feed(n *node, rng *rand.Rand, from int) int {
	var wg sync.WaitGroup
	count := 1 + rng.IntN(20)
	for i := range count {
		var rcpts []string
		for _, u := range rng.Perm(6)[:1+rng.IntN(3)] {
			rcpts = append(rcpts, fmt.Sprintf("u%d@%s", u, domain))
		}
		sender := "sender@far.test"
		if rng.IntN(4) == 0 {
			sender = ""
		}
		// An error is a 451: nothing was promised.
		wg.Go(func() { _, _ = n.offer(sender, text(fmt.Sprint("number ", from+i)), rcpts...) })
	}
	wg.Wait()
	return count
}

func randomScript(rng *rand.Rand) smtptest.Script {
	phases := []smtptest.Phase{smtptest.Banner, smtptest.Helo, smtptest.Mail, smtptest.Rcpt, smtptest.Data, smtptest.Dot, smtptest.Dot}
	sc := smtptest.Script{At: map[smtptest.Phase]smtptest.Action{}, MaxPerConn: rng.IntN(4)}
	for range 1 + rng.IntN(2) {
		a := smtptest.Action{Times: rng.IntN(12)}
		lose := rng.IntN(2) == 0 // only a broken connection may; a 250 is true
		switch rng.IntN(6) {
		case 0:
			a.Hang, a.Lose = true, lose
		case 1, 2:
			a.Drop, a.Lose = true, lose
		case 3:
			a.Reply = "451 4.3.0 later"
		case 4:
			a.Delay = time.Duration(rng.IntN(4000)) * time.Millisecond
		case 5:
			a.Reply = "421 4.3.2 going down"
		}
		sc.At[phases[rng.IntN(len(phases))]] = a
	}
	if rng.IntN(4) == 0 {
		sc.Rcpt = func(to string) smtptest.Action {
			if to == "u5@"+domain {
				return smtptest.Action{Reply: "550 5.1.1 unknown"}
			}
			return smtptest.Action{}
		}
	}
	return sc
}

// judge checks what arrived against what was accepted and recorded.
func (w *world) judge(n *node) {
	w.t.Helper()
	arrived := map[string]int{}
	for _, tx := range w.mx().Transactions() {
		for _, r := range tx.Recipients {
			arrived[subjectOf(tx.Body)+" "+r.To]++
		}
	}
	ended := map[event.Unit][]event.Outcome{}
	for _, r := range n.facts() {
		if f, ok := r.Fact.(*event.DeliverySettled); ok {
			for _, o := range f.Outcomes {
				ended[o.Unit] = append(ended[o.Unit], o)
			}
		}
	}
	uncertain := 0
	for _, l := range w.accepted {
		for i, rcpt := range l.rcpts {
			u := event.Unit{Source: l.id, N: uint32(i)}
			w.judgeUnit(ended[u], arrived[subjectOf(l.body)+" "+rcpt], u)
			if os := ended[u]; len(os) > 0 && os[len(os)-1].Uncertain {
				uncertain++
			}
		}
	}
	for _, tx := range w.mx().Transactions() {
		if !bytes.Contains(tx.Body, []byte("\r\n\r\n.dot\r\nbody of "+subjectOf(tx.Body)+"\r\n")) {
			w.t.Errorf("altered body %q", tx.Body)
		}
	}
	w.t.Logf("%d uncertain", uncertain)
}

func (w *world) judgeUnit(os []event.Outcome, arrived int, u event.Unit) {
	w.t.Helper()
	uncertain := false
	var end event.Result
	for _, o := range os {
		uncertain = uncertain || o.Uncertain
		switch o.Result {
		case event.ResultDelivered, event.ResultBounced, event.ResultHeld:
			if end == 0 {
				end = o.Result
			}
		}
	}
	switch {
	case end == 0:
		w.t.Errorf("unit %v has no end: %+v", u, os)
	case end == event.ResultDelivered && arrived == 0:
		w.t.Errorf("unit %v is lost: %+v", u, os)
	case end != event.ResultDelivered && arrived > 0 && !uncertain:
		w.t.Errorf("unit %v arrived %d times and was refused: %+v", u, arrived, os)
	case arrived > 1 && !uncertain:
		w.t.Errorf("unit %v arrived %d times without being marked: %+v", u, arrived, os)
	}
}
