package bus

import (
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Retry returns middleware that calls a handler again after an error, up to tries
// times in all, with pauses that begin at first and double. The message's context
// ends the pauses.
func Retry(tries int, first time.Duration) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(m *message.Message) (out []*message.Message, err error) {
			for try, wait := 1, first; ; try, wait = try+1, 2*wait {
				if out, err = next(m); err == nil || try == tries || m.Context().Err() != nil {
					return out, err
				}
				pause(m.Context(), wait)
			}
		}
	}
}

// Halt returns middleware for a handler that must not skip: when all middleware
// below it has given up on a message, report is told, once, and stop ends the
// handler. The message is not acknowledged, so that it is the first one the
// handler gets when it is started again.
func Halt(stop func(), report func(messageID string, err error)) message.HandlerMiddleware {
	var once sync.Once
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(m *message.Message) ([]*message.Message, error) {
			out, err := next(m)
			if err != nil {
				once.Do(func() {
					report(m.UUID, err)
					stop()
				})
			}
			return out, err
		}
	}
}
