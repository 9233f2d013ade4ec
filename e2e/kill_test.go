package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"holdfast/e2e/outside"
)

// TestKilled kills the node with SIGKILL at random moments under load, with the
// primary up, down and returning. What got 250 is there afterwards, once; the
// primary has it, and twice only what is marked uncertain; the log is whole; and
// with the data directory deleted every mailbox is as it was.
func TestKilled(t *testing.T) {
	stores := []string{"fs"}
	if long() {
		stores = append(stores, "s3")
	}
	for _, store := range stores {
		t.Run(store, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			k := &killing{
				scene: open(t, setting{s3: store == "s3", continuity: "always"}),
				rng:   rand.New(rand.NewPCG(seed, 0)),
				sent:  map[int]fate{}, flagged: map[uint32]bool{},
			}
			k.startSenders()
			for round := range pick(3, 20) {
				k.round(round)
			}
			k.stopSenders()
			k.afterwards()
		})
	}
}

// fate is what the sender of a message knows.
type fate int

const (
	kept    fate = iota + 1 // 250
	refused                 // 4xx: a real sender would try again, this one does not
	unknown                 // the connection broke
)

// killing is one run of the test.
type killing struct {
	*scene
	rng     *rand.Rand
	flagged map[uint32]bool // UIDs whose \Flagged was confirmed

	stop    chan struct{}
	senders sync.WaitGroup
	mu      sync.Mutex
	next    int
	sent    map[int]fate
}

// startSenders sends messages to alice without a pause until stopSenders.
func (k *killing) startSenders() {
	k.stop = make(chan struct{})
	for range 4 {
		k.senders.Go(func() {
			for {
				select {
				case <-k.stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
				k.connection()
			}
		})
	}
}

// connection sends a few messages over one connection, each once whatever
// happens.
func (k *killing) connection() {
	conn, err := outside.DialSMTP(k.t.Context(), k.SMTP)
	if err != nil {
		return // The node is down: nothing was sent.
	}
	defer conn.Close()
	for range 10 {
		k.mu.Lock()
		n := k.next
		k.next++
		k.mu.Unlock()
		_, err := conn.Send("sender@remote.example", []string{"alice@acme.test"}, numbered("killed", n))
		f := unknown
		switch {
		case err == nil:
			f = kept
		case outside.Code(err)/100 == 4:
			f = refused
		case outside.Code(err) != 0:
			k.t.Errorf("message %d: %v", n, err)
		}
		k.mu.Lock()
		k.sent[n] = f
		k.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (k *killing) stopSenders() {
	close(k.stop)
	k.senders.Wait()
}

// round lets the node run for a moment, changes something at the primary, kills
// the node, and starts it again.
func (k *killing) round(n int) {
	k.t.Helper()
	pause := func(most int) { time.Sleep(time.Duration(k.rng.IntN(most)) * time.Millisecond) }
	pause(1500)
	switch n % 3 {
	case 1:
		k.primary.Stop()
		pause(5000)
	case 2:
		if err := k.primary.Start(); err != nil {
			k.t.Fatal(err)
		}
		pause(3000)
	}
	k.Kill()
	if err := k.Start(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
	k.flagSomething()
}

// flagSomething flags a random message of alice's and remembers it once the
// node has confirmed it.
func (k *killing) flagSomething() {
	k.t.Helper()
	alice := k.login("alice@acme.test", "correct horse")
	v, err := alice.Look("INBOX", false)
	if err != nil {
		k.t.Fatal(err)
	}
	for uid := range v.Messages {
		k.do(alice, fmt.Sprintf(`UID STORE %d +FLAGS (\Flagged)`, uid))
		k.flagged[uid] = true
		break
	}
	alice.Close()
}

// afterwards lets everything be delivered and checks what the test promises.
func (k *killing) afterwards() {
	k.t.Helper()
	if k.primary.Start() == nil {
		k.t.Log("the primary was down at the end and is started")
	}
	k.awaitDrained(3 * time.Minute)
	k.must("log", "verify")
	before := k.mailboxes()
	k.checkMailbox(before["INBOX"])
	k.checkDeliveries()
	if err := k.Stop(); err != nil {
		k.t.Error(err)
	}
	k.must("log", "verify") // It works while the node is down, too.
	if err := os.RemoveAll(k.DataDir()); err != nil {
		k.t.Fatal(err)
	}
	if err := k.Start(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
	k.sameViews(before, k.mailboxes())
	k.t.Logf("%d messages sent: %d kept, %d refused, %d unknown", k.next, k.count(kept), k.count(refused), k.count(unknown))
	if k.count(kept) < 50 {
		k.t.Errorf("only %d messages were kept: that is no load", k.count(kept))
	}
}

func (k *killing) mailboxes() map[string]outside.View {
	k.t.Helper()
	alice := k.login("alice@acme.test", "correct horse")
	return map[string]outside.View{"INBOX": k.look(alice, "INBOX"), "Archive": k.look(alice, "Archive")}
}

func (k *killing) count(f fate) (n int) {
	for _, is := range k.sent {
		if is == f {
			n++
		}
	}
	return n
}

var numberField = regexp.MustCompile(`(?m)^X-Number: (\d+)\r$`)

// numberOf reads the number of a message that numbered made.
func numberOf(t *testing.T, body []byte) int {
	t.Helper()
	m := numberField.FindSubmatch(body)
	if m == nil {
		t.Fatalf("a message without a number: %.300q", body)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkMailbox: what was kept is there once, what was refused is not there, and
// what is unknown is there once or not at all.
func (k *killing) checkMailbox(v outside.View) {
	k.t.Helper()
	have := map[int]int{}
	for uid, m := range v.Messages {
		n := numberOf(k.t, m.Body)
		have[n]++
		if rest, ok := outside.CutReceived(m.Body); !ok || !bytes.Equal(rest, numbered("killed", n)) {
			k.t.Errorf("UID %d is not message %d byte for byte", uid, n)
		}
		if k.flagged[uid] && m.Flags != `\Flagged` {
			k.t.Errorf("UID %d was flagged and has flags %q", uid, m.Flags)
		}
	}
	for n, f := range k.sent {
		switch times := have[n]; {
		case times > 1:
			k.t.Errorf("message %d was sent once and is there %d times", n, times)
		case f == kept && times == 0:
			k.t.Errorf("message %d got 250 and is not there", n)
		case f == refused && times != 0:
			k.t.Errorf("message %d was refused and is there", n)
		}
	}
}

// checkDeliveries: the primary has all that was kept, and twice only what is
// marked uncertain.
func (k *killing) checkDeliveries() {
	k.t.Helper()
	arrived := map[int]int{}
	for _, tx := range k.primary.Transactions() {
		arrived[numberOf(k.t, tx.Body)]++
	}
	twice := 0
	for n, f := range k.sent {
		switch times := arrived[n]; {
		case f == kept && times == 0:
			k.t.Errorf("message %d got 250 and never reached the primary", n)
		case f == refused && times > 0:
			k.t.Errorf("message %d was refused and reached the primary", n)
		case times > 1:
			twice++
			rows := k.search("--message-id", fmt.Sprintf("<killed.%d@remote.example>", n))
			if len(rows) != 1 || len(rows[0].State) != 1 || rows[0].State[0] != "uncertain" {
				k.t.Errorf("message %d reached the primary %d times and is not marked uncertain: %+v", n, times, rows)
			}
		}
	}
	k.t.Logf("%d messages reached the primary twice and are marked so", twice)
}
