package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// memory is a Backend that keeps what it gets. Its fault model: none but what
// the addresses ask for. A sender or recipient whose local part is a key of
// faults gets that error; a sender "data-<key>" gets it at DATA, before a byte
// is read, and "late-<key>" after all were. The domain example.org is relayed
// for nobody but users who have logged in.
type memory struct {
	mu       sync.Mutex
	messages []*kept
	logins   []string
	open     int // transactions not yet closed
	closed   int
	partial  int // bodies that did not end well
}

// kept is one message or transaction.
type kept struct {
	m      *memory
	peer   Peer
	login  Login
	from   ReversePath
	params MailParams
	to     []ForwardPath
	rcpts  []RcptParams
	body   []byte
	closed bool
}

func faultOf(key string) error {
	return map[string]error{
		"unknown": ErrUnknownRecipient, "relay": ErrRelayDenied, "tenant": ErrSecondTenant,
		"many": ErrTooManyRecipients, "big": ErrTooBig, "hops": ErrTooManyHops,
		"notmine": ErrSenderNotYours, "policy": ErrPolicy, "slow": ErrThrottled,
		"temp": ErrTemporary, "odd": fmt.Errorf("disk /var/secret on fire"), "late": context.DeadlineExceeded,
	}[key]
}

// orElse returns an error in any case.
func orElse(err error) error {
	if err == nil {
		return errors.New("no such fault")
	}
	return err
}

func (m *memory) Auth(_ context.Context, _ Peer, identity, user, password string) (Login, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logins = append(m.logins, identity+"|"+user+"|"+password)
	switch {
	case user == "broken":
		return nil, fmt.Errorf("directory is down")
	case user == "closed" && password == "secret":
		return nil, ErrLoginUnavailable
	case password != "secret":
		return nil, fmt.Errorf("check: %w", ErrBadCredentials)
	}
	return user, nil
}

func (m *memory) Begin(_ context.Context, peer Peer, login Login, from ReversePath, p MailParams) (Transaction, error) {
	if err := faultOf(from.Local); err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	return &kept{m: m, peer: peer, login: login, from: from, params: p}, nil
}

func (k *kept) Rcpt(_ context.Context, to ForwardPath, p RcptParams) error {
	if err := faultOf(to.Local); err != nil {
		return fmt.Errorf("rcpt: %w", err)
	}
	k.to, k.rcpts = append(k.to, to), append(k.rcpts, p)
	return nil
}

func (k *kept) Data(_ context.Context, body io.Reader) (string, error) {
	if f, ok := strings.CutPrefix(k.from.Local, "data-"); ok {
		return "", orElse(faultOf(f))
	}
	b, err := io.ReadAll(body)
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	if err != nil {
		k.m.partial++
		return "", fmt.Errorf("read: %w", err)
	}
	if f, ok := strings.CutPrefix(k.from.Local, "late-"); ok {
		return "", orElse(faultOf(f))
	}
	k.body = b
	k.m.messages = append(k.m.messages, k)
	return fmt.Sprintf("id%d", len(k.m.messages)), nil
}

func (k *kept) Close() {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	if k.closed {
		panic("closed twice")
	}
	k.closed = true
	k.m.open--
	k.m.closed++
}

// all returns what was kept.
func (m *memory) all() []*kept {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*kept(nil), m.messages...)
}
