package bus

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"holdfast/event"
	"holdfast/eventlog"
)

// Wakes tells components of one process that a partition has grown: one message
// for each segment, on a topic for each partition. It is a bell, not the log: who
// hears it reads the log from a cursor. When segments come faster than all
// subscribers acknowledge, only the last is announced.
//
// A subscriber acknowledges at once and works afterwards; one that does not holds
// up the bell of its partition for everybody.
type Wakes struct {
	log  *eventlog.Log
	ch   *gochannel.GoChannel
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// NewWakes begins to announce what is appended from now on. The caller closes it
// before the log.
func NewWakes(l *eventlog.Log, logger *slog.Logger) *Wakes {
	var adapter watermill.LoggerAdapter = watermill.NopLogger{}
	if logger != nil {
		adapter = watermill.NewSlogLogger(logger)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Wakes{log: l, stop: cancel, ch: gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, adapter)}
	for i := range l.Partitions() {
		p := event.Partition(i)
		from := l.TailAtLeast(p)
		w.wg.Go(func() { w.announce(ctx, p, from) })
	}
	return w
}

func (w *Wakes) announce(ctx context.Context, p event.Partition, seen event.Seq) {
	for {
		if err := w.log.Wait(ctx, p, seen); err != nil {
			return // The log or this is closed.
		}
		seen = w.log.TailAtLeast(p)
		m := message.NewMessage(watermill.NewUUID(), []byte(fmt.Sprintf("%d/%d", p, seen)))
		if err := w.ch.Publish(wakeTopic(p), m); err != nil {
			return // Closed.
		}
	}
}

func wakeTopic(p event.Partition) string { return fmt.Sprintf("partition-%02x", uint8(p)) }

// Subscribe returns the wake-ups of a partition until ctx ends or w is closed.
func (w *Wakes) Subscribe(ctx context.Context, p event.Partition) (<-chan *message.Message, error) {
	return w.ch.Subscribe(ctx, wakeTopic(p))
}

// ParseWake reads a wake-up: there are segments up to seq.
func ParseWake(m *message.Message) (p event.Partition, seq event.Seq, err error) {
	if _, err := fmt.Sscanf(string(m.Payload), "%d/%d", &p, &seq); err != nil {
		return 0, 0, fmt.Errorf("wake-up: %w", event.ErrMalformed)
	}
	return p, seq, nil
}

// Close ends it and waits for its goroutines. It may be called again.
func (w *Wakes) Close() error {
	w.stop()
	err := w.ch.Close() // Also releases an announcement that waits.
	w.wg.Wait()
	return err
}
