package continuity

import (
	"fmt"
	"log/slog"
	"sync"

	"holdfast/event"
	"holdfast/eventlog"
	"holdfast/projection"
)

// Service opens accounts. Its methods may be called by any goroutine.
type Service struct {
	log    *eventlog.Log
	runner *projection.Runner
	logger *slog.Logger

	mu      sync.Mutex // never held across a call through a seam
	boxes   map[boxKey]*box
	origins map[event.ID]any // tokens of commands under way
}

type boxKey struct {
	account event.Account
	mailbox event.MailboxID
}

// New returns a Service. Its projection is added to the runner.
func New(log *eventlog.Log, runner *projection.Runner, logger *slog.Logger) (*Service, error) {
	return newService(log, runner, logger, newFold())
}

func newService(log *eventlog.Log, runner *projection.Runner, logger *slog.Logger, f fold) (*Service, error) {
	s := &Service{log: log, runner: runner, logger: logger, boxes: map[boxKey]*box{}, origins: map[event.ID]any{}}
	if err := runner.Add(f, s.observe); err != nil {
		return nil, fmt.Errorf("continuity: %w", err)
	}
	return s, nil
}

// observe hands committed changes to the sessions that look at a mailbox.
func (s *Service) observe(es []projection.Emission) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range es {
		c, ok := e.Value.(boxChanges)
		if !ok {
			continue
		}
		if b := s.boxes[boxKey{c.Account, c.Mailbox}]; b != nil {
			b.take(c.all(), s.origins[e.Event.Ref.ID])
		}
	}
}

func (s *Service) setOrigin(id event.ID, origin any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if origin == nil {
		delete(s.origins, id)
		return
	}
	s.origins[id] = origin
}
