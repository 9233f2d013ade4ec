package crypto

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"holdfast/event"
)

func TestSmallRoundTrip(t *testing.T) {
	c := NewCodec()
	for _, n := range []int{0, 1, 63, 64, 100, 10_000, 300_000} {
		for _, plain := range [][]byte{text(n, 1), noise(n, 1), make([]byte, n)} {
			l, b := testLeaf(1), testBinding(1)
			sealed, commit := c.SealSmall(l, b, plain)
			if len(sealed) > n+17 {
				t.Errorf("%d bytes sealed are %d, want at most 17 more", n, len(sealed))
			}
			got, err := c.OpenSmall(l, b, commit, sealed, int64(n))
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("open %d bytes: %d bytes, %v", n, len(got), err)
			}
			if n > 0 {
				if _, err := c.OpenSmall(l, b, commit, sealed, int64(n-1)); !errors.Is(err, ErrTooLarge) {
					t.Errorf("open %d bytes with a bound of %d: %v, want ErrTooLarge", n, n-1, err)
				}
			}
		}
	}
	if sealed, _ := c.SealSmall(testLeaf(1), testBinding(1), text(10_000, 1)); len(sealed) > 6000 {
		t.Errorf("10,000 bytes of text sealed are %d: not compressed", len(sealed))
	}
}

// otherBindings returns b with each of its fields changed.
func otherBindings(b Binding) map[string]Binding {
	m := map[string]Binding{}
	o := b
	o.Log[15]++
	m["log"] = o
	o = b
	o.Tenant[0]++
	m["tenant"] = o
	o = b
	o.Event[3]++
	m["event"] = o
	o = b
	o.Role = event.RoleMeta
	m["role"] = o
	o = b
	o.Part++
	m["part"] = o
	return m
}

func TestSmallOpensOnlyAsSealed(t *testing.T) {
	c := NewCodec()
	l, b := testLeaf(1), testBinding(1)
	sealed, commit := c.SealSmall(l, b, text(500, 1))
	refuse := func(name string, l Leaf, b Binding, commit Commitment, sealed []byte) {
		t.Helper()
		if _, err := c.OpenSmall(l, b, commit, sealed, 1<<20); !errors.Is(err, ErrNotOpened) {
			t.Errorf("%s: %v, want ErrNotOpened", name, err)
		}
	}
	for name, o := range otherBindings(b) {
		refuse("other "+name, l, o, commit, sealed)
		_, forged := c.SealSmall(l, o, nil)
		refuse("other "+name+" with its commitment", l, o, forged, sealed)
	}
	refuse("other leaf", testLeaf(2), b, commit, sealed)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		refuse("flipped bit", l, b, commit, bad)
		refuse("cut off", l, b, commit, sealed[:i])
	}
	for i := range commit {
		bad := commit
		bad[i] ^= 1
		refuse("other commitment", l, b, bad, sealed)
	}
}

// A stream and a small value under one key are apart.
func TestStreamIsNotSmall(t *testing.T) {
	c := NewCodec()
	l, b := testLeaf(1), testBinding(1)
	sealed, commit := c.SealSmall(l, b, []byte("hello"))
	var out bytes.Buffer
	s := c.NewStreamSealer(l, b, &out)
	s.Write([]byte("hello"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s.Commitment() != commit {
		t.Error("the commitment depends on more than leaf and binding")
	}
	if bytes.Equal(out.Bytes()[:len(sealed)], sealed) {
		t.Error("chunk and small value are the same bytes under one nonce")
	}
	if _, err := c.OpenSmall(l, b, commit, out.Bytes()[:len(sealed)], 10); !errors.Is(err, ErrNotOpened) {
		t.Errorf("a chunk opens as a small value: %v", err)
	}
}

func sealStream(t testing.TB, c *Codec, l Leaf, b Binding, plain []byte, step int) ([]byte, Commitment) {
	t.Helper()
	var out bytes.Buffer
	s := c.NewStreamSealer(l, b, &out)
	for rest := plain; len(rest) > 0; {
		n := min(step, len(rest))
		if m, err := s.Write(rest[:n]); m != n || err != nil {
			t.Fatalf("write: %d, %v", m, err)
		}
		rest = rest[n:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s.Size() != int64(len(plain)) || s.SealedSize() != int64(out.Len()) {
		t.Errorf("sizes %d and %d, want %d and %d", s.Size(), s.SealedSize(), len(plain), out.Len())
	}
	return out.Bytes(), s.Commitment()
}

func TestStreamRoundTrip(t *testing.T) {
	c := NewCodec()
	l, b := testLeaf(1), testBinding(1)
	for _, n := range []int{0, 1, 100, chunkSize - 1, chunkSize, chunkSize + 1, 3 * chunkSize, 10*chunkSize + 77} {
		for name, plain := range map[string][]byte{"text": text(n, 2), "noise": noise(n, 2)} {
			sealed, commit := sealStream(t, c, l, b, plain, 7000)
			again, _ := sealStream(t, c, l, b, plain, 1<<20)
			if !bytes.Equal(sealed, again) {
				t.Errorf("%s of %d bytes: the stream depends on how it is written", name, n)
			}
			r, err := c.OpenStream(l, b, commit, bytes.NewReader(sealed), int64(len(sealed)))
			if err != nil {
				t.Fatalf("open %s of %d bytes: %v", name, n, err)
			}
			if r.Size() != int64(n) {
				t.Errorf("size %d, want %d", r.Size(), n)
			}
			// TestReader reads by odd pieces, seeks and reads at offsets.
			if err := iotest.TestReader(r, plain); err != nil {
				t.Errorf("%s of %d bytes: %v", name, n, err)
			}
		}
	}
}

// damages returns streams that were made from sealed by cutting and moving.
func damages(sealed []byte, first, second int) map[string][]byte {
	m := map[string][]byte{}
	swapped := append(bytes.Clone(sealed[first:first+second]), sealed[:first]...)
	m["chunks swapped"] = append(swapped, sealed[first+second:]...)
	m["first chunk gone"] = sealed[first:]
	m["cut by one"] = sealed[:len(sealed)-1]
	m["cut at a chunk"] = sealed[:first]
	m["empty"] = nil
	m["doubled"] = append(bytes.Clone(sealed), sealed...)
	m["one more byte"] = append([]byte{0}, sealed...)
	return m
}

func readAll(c *Codec, l Leaf, b Binding, commit Commitment, sealed []byte) ([]byte, error) {
	r, err := c.OpenStream(l, b, commit, bytes.NewReader(sealed), int64(len(sealed)))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestStreamDetectsDamage(t *testing.T) {
	c := NewCodec()
	l, b := testLeaf(1), testBinding(1)
	plain := noise(2*chunkSize+100, 3) // so every full chunk is equally long
	sealed, commit := sealStream(t, c, l, b, plain, 1<<20)
	refuse := func(name string, l Leaf, b Binding, bad []byte) {
		t.Helper()
		if _, err := readAll(c, l, b, commit, bad); !errors.Is(err, ErrNotOpened) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, bad := range damages(sealed, maxSealedChunk, maxSealedChunk) {
		refuse(name, l, b, bad)
	}
	for name, o := range otherBindings(b) {
		refuse("other "+name, l, o, sealed)
	}
	refuse("other leaf", testLeaf(9), b, sealed)
	forged := commit
	forged[31] ^= 1
	if _, err := readAll(c, l, b, forged, sealed); !errors.Is(err, ErrNotOpened) {
		t.Errorf("other commitment: %v, want ErrNotOpened", err)
	}
	for i := 0; i < len(sealed); i += 1 + len(sealed)/500 {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x10
		refuse("flipped bit", l, b, bad)
	}
	for i := len(sealed) - 200; i < len(sealed); i++ {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x80
		refuse("flipped bit in the table", l, b, bad)
	}
}
