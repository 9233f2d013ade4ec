package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/argon2"

	"holdfast/event"
)

// cheap is a hash with the least parameters that are accepted.
func cheap(password string) string {
	b64 := base64.RawStdEncoding.EncodeToString
	salt := []byte("saltsaltsalt")
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=1,p=1$%s$%s", minMemory, b64(salt), b64(argon2.IDKey([]byte(password), salt, 1, minMemory, 1, 32)))
}

func TestHash(t *testing.T) {
	h := Hash("correct horse")
	if ok, err := Verify(h, "correct horse"); !ok || err != nil {
		t.Errorf("own hash: %v %v", ok, err)
	}
	if ok, err := Verify(h, "correct house"); ok || err != nil {
		t.Errorf("wrong password: %v %v", ok, err)
	}
	if !strings.HasPrefix(h, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("parameters are not the recommended ones: %.40s", h)
	}
	if h == Hash("correct horse") {
		t.Error("the salt is not fresh")
	}
}

func TestHashFromTheReferenceImplementation(t *testing.T) {
	// printf password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32 -e
	const h = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if ok, err := Verify(h, "password"); !ok || err != nil {
		t.Errorf("got %v %v", ok, err)
	}
}

func TestHashRefused(t *testing.T) {
	good := cheap("x")
	if err := CheckHash(good); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"empty":          "",
		"plain text":     "battery staple",
		"other kind":     strings.Replace(good, "argon2id", "argon2i", 1),
		"other version":  strings.Replace(good, "v=19", "v=16", 1),
		"no version":     strings.Replace(good, "v=19$", "", 1),
		"little memory":  strings.Replace(good, "m=4096", "m=8", 1),
		"much memory":    strings.Replace(good, "m=4096", "m=2097152", 1),
		"memory wraps":   strings.Replace(good, "m=4096", "m=4294971392", 1),
		"no time":        strings.Replace(good, "t=1", "t=0", 1),
		"much time":      strings.Replace(good, "t=1", "t=1000", 1),
		"no threads":     strings.Replace(good, "p=1", "p=0", 1),
		"threads wrap":   strings.Replace(good, "p=1", "p=257", 1),
		"signed":         strings.Replace(good, "t=1", "t=+1", 1),
		"padded":         good + "=",
		"short key":      good[:strings.LastIndex(good, "$")] + "$AAAA",
		"empty salt":     strings.Replace(good, "$c2FsdHNhbHRzYWx0$", "$$", 1),
		"more fields":    good + "$",
		"fewer fields":   good[:strings.LastIndex(good, "$")],
		"something else": "x" + good,
	}
	for name, h := range cases {
		if h == good {
			t.Errorf("%s: the case is the good hash", name)
		}
		if err := CheckHash(h); !errors.Is(err, ErrHash) {
			t.Errorf("%s: %v, want ErrHash", name, err)
		}
		if ok, err := Verify(h, "x"); ok || !errors.Is(err, ErrHash) {
			t.Errorf("%s: Verify: %v %v", name, ok, err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(cheap("x"))
	f.Add("$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parse(s)
		if err != nil {
			if !errors.Is(err, ErrHash) {
				t.Errorf("error does not wrap ErrHash: %v", err)
			}
			return
		}
		if h.memory > maxMemory || h.time > maxTime || h.threads > maxThreads || h.threads == 0 || h.time == 0 || len(h.key) > maxKey || len(h.salt) > maxSalt {
			t.Errorf("beyond the bounds: %+v", h)
		}
	})
}

// users is a directory of the tests.
type users struct {
	mu    sync.Mutex
	hash  map[string]string
	asked int
}

func (u *users) lookup(user string) (Login, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	h, ok := u.hash[user]
	return Login{Account: event.Account{1}, Address: user, Hash: h}, ok
}

func (u *users) set(user, hash string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hash[user] = hash
}

var (
	peer  = netip.MustParseAddr("192.0.2.1")
	peer2 = netip.MustParseAddr("192.0.2.2")
)

func newAuth() (*Authenticator, *users) {
	u := &users{hash: map[string]string{"alice@acme.test": cheap("right"), "nopw@acme.test": ""}}
	return New(u.lookup), u
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAuth()
		a.dummy.memory, a.dummy.time = minMemory, 1
		login, err := a.Check(t.Context(), peer, "alice@acme.test", "right")
		if err != nil || login.Address != "alice@acme.test" || login.Account != (event.Account{1}) {
			t.Errorf("got %v %v", login.Account, err)
		}
		for _, c := range [][2]string{
			{"alice@acme.test", "wrong"}, {"alice@acme.test", ""}, {"bob@acme.test", "right"}, {"nopw@acme.test", ""},
			{"alice@acme.test", strings.Repeat("x", MaxPassword+1)},
		} {
			begin := time.Now()
			login, err := a.Check(t.Context(), peer2, c[0], c[1])
			if !errors.Is(err, ErrBadCredentials) || login != (Login{}) {
				t.Errorf("%s: %v", c[0], err)
			}
			if time.Since(begin) < firstDelay {
				t.Error("the refusal came without delay")
			}
		}
	})
}

func TestSuccessIsRememberedUntilTheHashChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, u := newAuth()
		check := func(password string) error {
			_, err := a.Check(t.Context(), peer, "alice@acme.test", password)
			return err
		}
		if err := check("right"); err != nil || len(a.remembered) != 1 {
			t.Fatalf("%v, %d remembered", err, len(a.remembered))
		}
		// All turns taken: what is remembered needs none.
		a.work <- struct{}{}
		a.work <- struct{}{}
		if err := check("right"); err != nil {
			t.Errorf("remembered login: %v", err)
		}
		if err := check("wrong"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("other password without a turn: %v", err)
		}
		u.set("alice@acme.test", cheap("new"))
		if err := check("right"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after the hash changed: %v", err)
		}
		<-a.work
		if err := check("right"); !errors.Is(err, ErrBadCredentials) {
			t.Errorf("the old password: %v", err)
		}
		if err := check("new"); err != nil {
			t.Errorf("the new password: %v", err)
		}
		a.work <- struct{}{}
		time.Sleep(rememberFor)
		if err := check("new"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after its time: %v", err)
		}
	})
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAuth()
		guess := func(p netip.Addr, n int) error {
			_, err := a.Check(t.Context(), p, "alice@acme.test", fmt.Sprint("guess", n))
			return err
		}
		n := 0
		for ; n < failsPerMinute; n++ {
			// Together, for the delays add up to more than a minute.
			go guess(peer, n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if err := guess(peer, n); !errors.Is(err, ErrThrottled) {
			t.Fatalf("guess %d: %v", n, err)
		}
		if _, err := a.Check(t.Context(), peer, "alice@acme.test", "right"); !errors.Is(err, ErrThrottled) {
			t.Errorf("even the right password is not looked at: %v", err)
		}
		if _, err := a.Check(t.Context(), peer2, "alice@acme.test", "right"); err != nil {
			t.Errorf("from another address: %v", err)
		}
		time.Sleep(time.Minute)
		for n = failsPerMinute; n < failsPerDay; n++ {
			if err := guess(peer, n); !errors.Is(err, ErrBadCredentials) {
				t.Fatalf("guess %d: %v", n, err)
			}
			time.Sleep(time.Minute)
		}
		if err := guess(peer, n); !errors.Is(err, ErrThrottled) {
			t.Errorf("guess %d of the day: %v", n, err)
		}
		time.Sleep(24 * time.Hour)
		if _, err := a.Check(t.Context(), peer, "alice@acme.test", "right"); err != nil {
			t.Errorf("the next day: %v", err)
		}
	})
}

func TestABurstIsCountedLikeASequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAuth()
		var bad, throttled int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				_, err := a.Check(t.Context(), peer, "alice@acme.test", fmt.Sprint(i))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, ErrBadCredentials):
					bad++
				case errors.Is(err, ErrThrottled):
					throttled++
				}
			})
		}
		wg.Wait()
		if bad != failsPerMinute || throttled != 60-failsPerMinute {
			t.Errorf("%d were looked at, %d refused", bad, throttled)
		}
	})
}

func TestManyRightLoginsAtOnceAreNotThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAuth()
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if _, err := a.Check(t.Context(), peer, "alice@acme.test", "right"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(a.throttle.sources) != 0 {
			t.Error("a source without failures is remembered")
		}
	})
}

func TestTheSameWrongLoginCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAuth()
		for i := range 3 * failsPerDay {
			if _, err := a.Check(t.Context(), peer, "alice@acme.test", "old password"); !errors.Is(err, ErrBadCredentials) {
				t.Fatalf("login %d: %v", i, err)
			}
		}
		if _, err := a.Check(t.Context(), peer, "alice@acme.test", "right"); err != nil {
			t.Error(err)
		}
	})
}

func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAuth()
		a.work <- struct{}{}
		a.work <- struct{}{}
		begin := time.Now()
		if _, err := a.Check(t.Context(), peer, "alice@acme.test", "right"); !errors.Is(err, ErrUnavailable) || time.Since(begin) != maxWait {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Check(ctx, peer, "alice@acme.test", "right"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("after its context: %v", err)
		}
	})
}

func TestThrottleIsBounded(t *testing.T) {
	th := newThrottle()
	addr := netip.MustParseAddr("10.0.0.0")
	for range maxSources + 100 {
		s, err := th.enter(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		th.leave(s, true, [32]byte{1})
		addr = addr.Next()
	}
	if len(th.sources) != maxSources || th.recent.Len() != maxSources {
		t.Errorf("%d sources, %d in the list", len(th.sources), th.recent.Len())
	}
}

func TestSourceOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.7": "192.0.2.7/32",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := sourceOf(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	sourceOf(netip.Addr{}) // a socket without an address is a source too
}
