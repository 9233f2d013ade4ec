package crypto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"holdfast/event"
)

func TestPage(t *testing.T) {
	sealer, page := newWorld(t).page(t)
	if sealer.Remaining() != PageLeaves {
		t.Errorf("%d leaves remain of a fresh page", sealer.Remaining())
	}
	seen := map[[32]byte]bool{}
	for i := range uint32(3000) {
		a, err := sealer.Next()
		if err != nil {
			t.Fatal(err)
		}
		b, err := page.Leaf(i)
		if err != nil {
			t.Fatal(err)
		}
		if a.Index() != i || b.Index() != i || *a.key.key != *b.key.key {
			t.Fatalf("leaf %d: the sealer hands out %d, or another secret", i, a.Index())
		}
		if seen[*a.key.key] {
			t.Fatalf("leaf %d has the secret of another", i)
		}
		seen[*a.key.key] = true
	}
	if got := sealer.Remaining(); got != PageLeaves-3000 {
		t.Errorf("%d leaves remain", got)
	}
	if _, err := page.Leaf(PageLeaves); !errors.Is(err, ErrPunctured) {
		t.Errorf("a leaf beyond the page: %v", err)
	}
}

// The order in which leaves are asked for does not matter.
func TestPageLeafInAnyOrder(t *testing.T) {
	_, page := newWorld(t).page(t)
	page.Puncture(5, 700_000)
	slow := func(index uint32) [32]byte { // each time from the node that covers it
		i, _ := page.find(index)
		at := page.nodes[i]
		for at.depth < pageDepth {
			at = at.child(byte(index >> (pageDepth - 1 - at.depth) & 1))
		}
		return *at.key.key
	}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 3000 {
		index := uint32(r.IntN(PageLeaves))
		if n%2 == 0 {
			index = uint32(r.IntN(50))
		}
		if index == 5 || index == 700_000 {
			continue
		}
		l, err := page.Leaf(index)
		if err != nil || *l.key.key != slow(index) {
			t.Fatalf("leaf %d is wrong (%v)", index, err)
		}
	}
}

func TestPageIsUsedUp(t *testing.T) {
	sealer, page := newWorld(t).page(t)
	var last Leaf
	for i := range PageLeaves {
		l, err := sealer.Next()
		if err != nil || l.Index() != uint32(i) {
			t.Fatalf("leaf %d: %d, %v", i, l.Index(), err)
		}
		last = l
	}
	if l, err := page.Leaf(PageLeaves - 1); err != nil || *l.key.key != *last.key.key {
		t.Errorf("the last leaf differs (%v)", err)
	}
	for range 2 {
		if _, err := sealer.Next(); !errors.Is(err, ErrPageFull) {
			t.Errorf("after the last leaf: %v, want ErrPageFull", err)
		}
	}
	if sealer.Remaining() != 0 {
		t.Errorf("%d leaves remain", sealer.Remaining())
	}
}

func TestPageConcurrently(t *testing.T) {
	sealer, page := newWorld(t).page(t)
	var mu sync.Mutex
	handed := map[uint32]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				a, err := sealer.Next()
				if err != nil {
					t.Error(err)
					return
				}
				b, err := page.Leaf(a.Index())
				if err != nil || *a.key.key != *b.key.key {
					t.Errorf("leaf %d differs (%v)", a.Index(), err)
				}
				mu.Lock()
				if handed[a.Index()] {
					t.Errorf("leaf %d was handed out twice", a.Index())
				}
				handed[a.Index()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestPageOpensOnlyAsSealed(t *testing.T) {
	w := newWorld(t)
	pair, b := w.day(t, today+30), testPageBinding(today+30)
	_, sealed, err := NewPage(pair.Public(), b)
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(name string, pair *DayPair, b PageBinding, sealed []byte) {
		t.Helper()
		_, err := OpenPage(pair, b, sealed)
		if !errors.Is(err, ErrNotOpened) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refuse("other day's pair", w.day(t, today+31), b, sealed)
	refuse("other day's pair and binding", w.day(t, today+31), testPageBinding(today+31), sealed)
	refuse("other root", newWorld(t).day(t, today+30), b, sealed)
	for i, change := range []func(*PageBinding){
		func(b *PageBinding) { b.Log[0]++ }, func(b *PageBinding) { b.Tenant[0]++ }, func(b *PageBinding) { b.Day++ },
		func(b *PageBinding) { b.Page[0]++ }, func(b *PageBinding) { b.Writer[0]++ },
	} {
		o := b
		change(&o)
		refuse("other binding", pair, o, sealed)
		if i < 3 {
			if _, _, err := NewPage(pair.Public(), o); !errors.Is(err, ErrMalformed) {
				t.Errorf("a page of another log, tenant or day: %v", err)
			}
		}
	}
	for i := 0; i < len(sealed); i += 13 {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		refuse("flipped bit", pair, b, bad)
		refuse("cut off", pair, b, sealed[:i])
	}
	refuse("one more byte", pair, b, append(bytes.Clone(sealed), 0))
}

func TestPuncture(t *testing.T) {
	w := newWorld(t)
	pair := w.day(t, today+30)
	_, page := w.page(t)
	all := []uint32{0, 1, 2, 3, 77, 78, 79, 1 << 19, PageLeaves - 1}
	want := map[uint32][32]byte{}
	for _, i := range all {
		l, err := page.Leaf(i)
		if err != nil {
			t.Fatal(err)
		}
		want[i] = *l.key.key
	}
	gone := []uint32{1, 78, PageLeaves - 1, 78}
	page.Puncture(gone...)
	sealed, err := page.Seal(pair.Public())
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenPage(pair, page.Binding(), sealed)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*Page{"punctured": page, "sealed again": again} {
		for _, i := range all {
			l, err := p.Leaf(i)
			if slices.Contains(gone, i) {
				if !errors.Is(err, ErrPunctured) {
					t.Errorf("%s: leaf %d: %v, want ErrPunctured", name, i, err)
				}
			} else if err != nil || *l.key.key != want[i] {
				t.Errorf("%s: leaf %d differs (%v)", name, i, err)
			}
		}
		for _, n := range p.nodes {
			for _, i := range gone {
				if n.first() <= i && i < n.end() {
					t.Errorf("%s: the node at depth %d derives leaf %d", name, n.depth, i)
				}
			}
		}
	}
	if n := len(sealed); n > 4+kemEncSize+4+3*pageDepth*pageEntrySize+tagSize {
		t.Errorf("a page with three punctures has %d bytes", n)
	}
}

func TestPunctureEverything(t *testing.T) {
	w := newWorld(t)
	_, page := w.page(t)
	page.nodes = []node{{19, 4, page.nodes[0].key}} // two leaves: 8 and 9
	page.Puncture(8, 9, 10)
	if len(page.nodes) != 0 {
		t.Fatalf("%d nodes remain", len(page.nodes))
	}
	pair := w.day(t, today+30)
	sealed, err := page.Seal(pair.Public())
	if err != nil {
		t.Fatal(err)
	}
	empty, err := OpenPage(pair, page.Binding(), sealed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Leaf(8); !errors.Is(err, ErrPunctured) {
		t.Errorf("leaf of an empty page: %v", err)
	}
}

// entries returns the plaintext of a page of nodes (depth, index).
func entries(nodes ...[2]uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(nodes)))
	for _, n := range nodes {
		b = append(b, byte(n[0]))
		b = binary.BigEndian.AppendUint32(b, n[1])
		b = append(b, make([]byte, 32)...)
	}
	return b
}

func TestDecodePage(t *testing.T) {
	good := [][]byte{
		entries(), entries([2]uint32{0, 0}), entries([2]uint32{1, 0}, [2]uint32{1, 1}),
		entries([2]uint32{20, 0}, [2]uint32{20, 2}, [2]uint32{19, 2}, [2]uint32{20, PageLeaves - 1}),
	}
	for i, b := range good {
		if nodes, err := decodePage(b); err != nil || len(b) != 4+37*len(nodes) {
			t.Errorf("good page %d: %d nodes, %v", i, len(nodes), err)
		}
	}
	bad := [][]byte{
		nil, entries()[:3], append(entries(), 0), {0xff, 0xff, 0xff, 0xff}, entries([2]uint32{0, 0})[:40],
		entries([2]uint32{0, 1}), entries([2]uint32{21, 0}), entries([2]uint32{255, 0}), entries([2]uint32{20, PageLeaves}),
		entries([2]uint32{0, 0}, [2]uint32{20, 5}), entries([2]uint32{20, 5}, [2]uint32{20, 5}),
		entries([2]uint32{1, 1}, [2]uint32{1, 0}), entries([2]uint32{20, 5}, [2]uint32{0, 0}),
	}
	for i, b := range bad {
		if _, err := decodePage(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("bad page %d: %v, want ErrMalformed", i, err)
		}
	}
}

func TestPublishedDay(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	pub := w.day(t, today+30).Public()
	published, err := w.root.PublishDay(ctx, pub)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := w.root.InstallationKey(ctx)
	got, err := ParseDayPublic(key, published)
	if err != nil {
		t.Fatal(err)
	}
	if got.Log() != testLog || got.Tenant() != testTenant || got.Day() != today+30 || !bytes.Equal(got.Bytes(), pub.Bytes()) {
		t.Error("a published day key reads back differently")
	}
	other, _ := MemoryRoot(today).InstallationKey(ctx)
	for name, key := range map[string][]byte{"another installation": other, "no key": nil, "short key": key[:31]} {
		if _, err := ParseDayPublic(key, published); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
	for i := range published {
		bad := bytes.Clone(published)
		bad[i] ^= 1
		if _, err := ParseDayPublic(key, bad); !errors.Is(err, ErrSignature) && !errors.Is(err, ErrMalformed) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
}

func TestNodeKey(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	may := event.ClassesOf(event.ClassAcceptance)
	node, err := NewNodeKey(ctx, w.root, may)
	if err != nil {
		t.Fatal(err)
	}
	installation, _ := w.root.InstallationKey(ctx)
	header := []byte("a header")
	sig := node.Sign(header)
	cert, err := ParseCertificate(bytes.Clone(node.cert[:]))
	if err != nil || cert != node.Certificate() || cert.May() != may {
		t.Fatalf("certificate reads back as %v, %v", cert.May(), err)
	}
	if err := VerifyHeader(cert, installation, header, sig); err != nil {
		t.Fatal(err)
	}
	if err := VerifyHeader(cert, installation, []byte("b header"), sig); !errors.Is(err, ErrSignature) {
		t.Errorf("another header: %v", err)
	}
	for name, s := range map[string][]byte{"no signature": nil, "short": sig[:63], "of another": make([]byte, 64)} {
		if err := VerifyHeader(cert, installation, header, s); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range cert {
		bad := cert
		bad[i] ^= 1
		if err := VerifyHeader(bad, installation, header, sig); !errors.Is(err, ErrSignature) && !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d of the certificate changed: %v", i, err)
		}
	}
	stranger, _ := MemoryRoot(today).InstallationKey(ctx)
	if err := cert.Verify(stranger); !errors.Is(err, ErrSignature) {
		t.Errorf("another installation: %v", err)
	}
	if err := (Certificate{}).Verify(installation); !errors.Is(err, ErrMalformed) {
		t.Errorf("the zero certificate: %v", err)
	}
	if _, err := w.root.CertifyNode(ctx, cert.Node(), 0); !errors.Is(err, ErrMalformed) {
		t.Errorf("a certificate for nothing: %v", err)
	}
	if _, err := w.root.CertifyNode(ctx, cert.Node()[:31], may); !errors.Is(err, ErrMalformed) {
		t.Errorf("a certificate for a short key: %v", err)
	}
}
