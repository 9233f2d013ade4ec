package bus

import (
	"context"
	"flag"
	"io"
	"log"
	"os"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/objstore"
	"holdfast/objstore/mem"
)

var whole = flag.Bool("whole", false, "run Watermill's suite with its full numbers of messages")

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // Watermill's suite tells a lot.
	os.Exit(m.Run())
}

func options(b objstore.Bucket) eventlog.Options {
	return eventlog.Options{Bucket: b, URL: "mem:", Keys: crypto.MemoryRoot(event.DayOf(time.Now())), MayCreate: true}
}

func openLog(t *testing.T, opt eventlog.Options) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	return l
}

func openBus(t *testing.T, l *eventlog.Log) *Bus {
	t.Helper()
	b := New(Options{Log: l, MinPause: time.Millisecond, MaxPause: 4 * time.Millisecond})
	t.Cleanup(func() { b.Close() })
	return b
}

// Watermill's own suite, for subscribers of a group.
func TestPubSubWithGroups(t *testing.T) {
	b := openBus(t, openLog(t, options(mem.New())))
	grouped := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		return b.Publisher(), b.Subscriber(group)
	}
	tests.TestPubSub(t, tests.Features{ConsumerGroups: true, GuaranteedOrder: true, Persistent: true, ForceShort: !*whole},
		func(t *testing.T) (message.Publisher, message.Subscriber) { return grouped(t, "everybody") }, grouped)
}

// And for those without, who receive everything.
func TestPubSubWithoutGroups(t *testing.T) {
	b := openBus(t, openLog(t, options(mem.New())))
	tests.TestPubSub(t, tests.Features{GuaranteedOrder: true, Persistent: true, NewSubscriberReceivesOldMessages: true, ForceShort: !*whole},
		func(t *testing.T) (message.Publisher, message.Subscriber) { return b.Publisher(), b.Subscriber("") }, nil)
}
