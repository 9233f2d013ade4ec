package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"

	"holdfast/event"
)

// Errors of [Authenticator.Check]. A protocol chooses its answer from them.
var (
	// ErrBadCredentials says that user or password is wrong, and not which.
	ErrBadCredentials = errors.New("wrong user or password")
	// ErrThrottled says that the source has failed too often; the password was
	// not looked at.
	ErrThrottled = errors.New("too many failed logins from this address; try again later")
	// ErrUnavailable says that the login could not be checked in time.
	ErrUnavailable = errors.New("logins cannot be checked now")
)

const (
	// concurrent is how many hashes are computed at once: two of the largest
	// that are accepted take 128 MiB.
	concurrent = 2
	// maxWaiting bounds the logins that wait for their turn.
	maxWaiting = 1000
	// maxWait bounds how long one of them waits.
	maxWait = 20 * time.Second
	// rememberFor is how long a login that was verified needs no new computation.
	rememberFor = 5 * time.Minute
	// maxRemembered bounds how many are remembered.
	maxRemembered = 4096
	// firstDelay is what a failed login waits for its answer. It doubles with
	// each failure of the source within the minute.
	firstDelay, maxDelay = 250 * time.Millisecond, 8 * time.Second
)

// Login is a user as far as a login is concerned.
type Login struct {
	Account event.Account
	Tenant  event.Tenant
	Address string // the primary address
	// Hash is the argon2id hash of the password in PHC form; empty when the user
	// cannot log in with one.
	Hash string
}

// Lookup finds the user of a login name. It answers from memory.
type Lookup func(user string) (Login, bool)

// Authenticator checks logins. All methods may be called by any goroutine.
type Authenticator struct {
	lookup   Lookup
	throttle *throttle
	work     chan struct{} // holds one token for each computation that runs
	waiting  chan struct{} // and one for each login that waits for its turn
	key      [32]byte
	dummy    *phc

	mu         sync.Mutex
	remembered map[[32]byte]time.Time // when it ends
}

// New returns an Authenticator that finds its users with lookup.
func New(lookup Lookup) *Authenticator {
	a := &Authenticator{
		lookup: lookup, throttle: newThrottle(),
		work: make(chan struct{}, concurrent), waiting: make(chan struct{}, maxWaiting),
		dummy:      &phc{memory: hashMemory, time: hashTime, threads: hashThreads, salt: make([]byte, hashSalt), key: make([]byte, hashKey)},
		remembered: map[[32]byte]time.Time{},
	}
	rand.Read(a.key[:])
	rand.Read(a.dummy.key)
	return a
}

// Check returns the user if the password is his. The errors are
// [ErrBadCredentials], which comes late on purpose, [ErrThrottled] and
// [ErrUnavailable]. An unknown user takes as long as a wrong password.
func (a *Authenticator) Check(ctx context.Context, peer netip.Addr, user, password string) (Login, error) {
	src, err := a.throttle.enter(ctx, peer)
	if err != nil {
		return Login{}, err
	}
	login, ok := a.lookup(user)
	if !ok {
		login = Login{}
	}
	what := a.digest(user, login.Hash, password)
	matches := false
	if !a.throttle.failedBefore(src, what) { // a wrong login is wrong until the hash changes
		matches, err = a.matches(ctx, login.Hash, password, what)
	}
	fails := a.throttle.leave(src, err == nil && !matches, what)
	switch {
	case err != nil:
		return Login{}, err
	case matches:
		return login, nil
	}
	t := time.NewTimer(min(firstDelay<<min(max(fails-1, 0), 10), maxDelay))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return Login{}, ErrBadCredentials
}

// digest names a login attempt without telling anything about it outside this
// process. The hash is part of it: when that changes, nothing of before counts.
func (a *Authenticator) digest(parts ...string) (sum [32]byte) {
	m := hmac.New(sha256.New, a.key[:])
	for _, p := range parts {
		m.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		m.Write([]byte(p))
	}
	m.Sum(sum[:0])
	return sum
}

// matches verifies a password, or does work that looks the same.
func (a *Authenticator) matches(ctx context.Context, hash, password string, what [32]byte) (bool, error) {
	if len(password) > MaxPassword {
		return false, nil
	}
	if hash != "" && a.recall(what) {
		return true, nil
	}
	h, err := parse(hash)
	real := err == nil
	if !real {
		h = a.dummy
	}
	leave, err := a.turn(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	// Another connection of the same client may have been checked meanwhile.
	if real && a.recall(what) {
		return true, nil
	}
	if !h.matches(password) || !real {
		return false, nil
	}
	a.remember(what)
	return true, nil
}

// turn waits until a hash may be computed. The caller calls leave afterwards.
func (a *Authenticator) turn(ctx context.Context) (leave func(), err error) {
	select {
	case a.waiting <- struct{}{}:
	default:
		return nil, ErrUnavailable
	}
	defer func() { <-a.waiting }()
	t := time.NewTimer(maxWait)
	defer t.Stop()
	select {
	case a.work <- struct{}{}:
		return func() { <-a.work }, nil
	case <-t.C:
		return nil, ErrUnavailable
	case <-ctx.Done():
		return nil, ErrUnavailable
	}
}

func (a *Authenticator) recall(what [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	end, ok := a.remembered[what]
	if ok && !time.Now().Before(end) {
		delete(a.remembered, what)
		return false
	}
	return ok
}

func (a *Authenticator) remember(what [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if len(a.remembered) >= maxRemembered {
		for k, end := range a.remembered {
			if !now.Before(end) {
				delete(a.remembered, k)
			}
		}
	}
	if len(a.remembered) >= maxRemembered {
		clear(a.remembered) // costs each client one computation
	}
	a.remembered[what] = now.Add(rememberFor)
}
