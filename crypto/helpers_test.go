package crypto

import (
	"math/rand/v2"
	"testing"

	"holdfast/event"
)

// today is the day on which the tests' roots are made.
const today event.Day = 20700

func testID[T ~[16]byte](n byte) T {
	var id T
	for i := range id {
		id[i] = n + byte(i)
	}
	return id
}

var (
	testLog    = testID[event.LogID](0x10)
	testTenant = testID[event.Tenant](0x20)
)

func testBinding(n byte) Binding {
	return Binding{Log: testLog, Tenant: testTenant, Event: testID[event.ID](n), Role: event.RoleBody, Part: 0}
}

func testPageBinding(day event.Day) PageBinding {
	return PageBinding{Log: testLog, Tenant: testTenant, Day: day, Page: testID[event.Page](0x30), Writer: testID[event.Writer](0x40)}
}

// world is a root in memory with one tenant.
type world struct {
	root   *Root
	tenant *TenantKeys
}

func newWorld(tb testing.TB) world {
	tb.Helper()
	root := MemoryRoot(today)
	wrapped, err := root.NewTenant(tb.Context(), testTenant, testLog)
	if err != nil {
		tb.Fatal(err)
	}
	keys, err := root.OpenTenant(tb.Context(), testTenant, testLog, wrapped)
	if err != nil {
		tb.Fatal(err)
	}
	return world{root, keys}
}

func (w world) day(tb testing.TB, day event.Day) *DayPair {
	tb.Helper()
	pair, err := w.root.DayPair(tb.Context(), w.tenant, day)
	if err != nil {
		tb.Fatal(err)
	}
	return pair
}

// page returns a fresh page's sealer and the same page opened.
func (w world) page(tb testing.TB) (*PageSealer, *Page) {
	tb.Helper()
	pair, b := w.day(tb, today+30), testPageBinding(today+30)
	sealer, sealed, err := NewPage(pair.Public(), b)
	if err != nil {
		tb.Fatal(err)
	}
	page, err := OpenPage(pair, b, sealed)
	if err != nil {
		tb.Fatal(err)
	}
	return sealer, page
}

// testSecret returns a secret of fixed content.
func testSecret(n byte) *secret {
	var key [32]byte
	for i := range key {
		key[i] = n ^ byte(i*7)
	}
	return &secret{&key}
}

// testLeaf returns a leaf of fixed content.
func testLeaf(n byte) Leaf {
	return Leaf{index: uint32(n), key: testSecret(n)}
}

// text returns n bytes that compress about as well as mail does.
func text(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([][]byte, 400)
	for i := range words {
		w := make([]byte, 2+r.IntN(9))
		for j := range w {
			w[j] = byte('a' + r.IntN(26))
		}
		words[i] = w
	}
	b := make([]byte, 0, n+12)
	for len(b) < n {
		b = append(b, words[min(r.IntN(400), r.IntN(400))]...)
		b = append(b, ' ')
	}
	return b[:n]
}

// noise returns n bytes that do not compress.
func noise(n int, seed uint64) []byte {
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}
