package crypto

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"

	"holdfast/event"
)

// seeds adds what the committed vectors hold to a fuzz target's corpus.
func seeds(f *testing.F, values ...[]byte) {
	for _, v := range values {
		f.Add(v)
		f.Add(v[:len(v)/2])
	}
	f.Add([]byte{})
}

// clean fails unless err is of a kind that tells strangers' bytes from ours.
func clean(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNotOpened) &&
		!errors.Is(err, ErrSignature) && !errors.Is(err, ErrTooLarge) {
		t.Errorf("error of no kind: %v", err)
	}
}

func FuzzRootFile(f *testing.F) {
	seeds(f, encodeRootFile(newRootState(today)), []byte(rootPreamble))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeRootFile(b)
		clean(t, err)
		if err != nil {
			return
		}
		again, err := decodeRootFile(encodeRootFile(s))
		if err != nil || *again.fixed.key != *s.fixed.key || *again.ratchet.key != *s.ratchet.key || again.day != s.day {
			t.Errorf("a root file reads back differently: %v", err)
		}
	})
}

func FuzzBackup(f *testing.F) {
	b, err := os.ReadFile("testdata/root.json")
	if err != nil {
		f.Fatal(err)
	}
	seeds(f, b, armorBackup(make([]byte, backupSize)))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := decodeBackup(text)
		clean(t, err)
		if err != nil {
			return
		}
		a, err := readCost(b) // argon2 itself is not run: its cost is bounded, but high
		clean(t, err)
		if err == nil && (a.memory > maxArgonMemory || a.time > maxArgonTime) {
			t.Errorf("a backup may ask for %+v", a)
		}
	})
}

func FuzzOpenTenant(f *testing.F) {
	r := MemoryRoot(today)
	wrapped, err := r.NewTenant(f.Context(), testTenant, testLog)
	if err != nil {
		f.Fatal(err)
	}
	seeds(f, wrapped)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := r.OpenTenant(t.Context(), testTenant, testLog, b)
		clean(t, err)
		if err == nil && !bytes.Equal(b, wrapped) {
			t.Error("a forged tenant opens")
		}
	})
}

func FuzzParseDayPublic(f *testing.F) {
	w := newWorld(f)
	key := w.root.installation()
	public := key.Public().(ed25519.PublicKey)
	seeds(f, w.day(f, today+1).Public().Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseDayPublic(public, b); err == nil {
			t.Error("an unsigned day key is believed")
		}
		sig := ed25519.Sign(key, labelled("holdfast day public v1", b))
		p, err := ParseDayPublic(public, append(bytes.Clone(b), sig...))
		clean(t, err)
		if err == nil && !bytes.Equal(p.Bytes(), b) {
			t.Error("a day key reads back differently")
		}
	})
}

func FuzzCertificate(f *testing.F) {
	w := newWorld(f)
	node, err := NewNodeKey(f.Context(), w.root, event.AllClasses)
	if err != nil {
		f.Fatal(err)
	}
	public, _ := w.root.InstallationKey(f.Context())
	seeds(f, node.cert[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCertificate(b)
		clean(t, err)
		if err != nil {
			return
		}
		if err := c.Verify(public); err == nil && c != node.cert {
			t.Error("a forged certificate verifies")
		}
		if !bytes.Equal(c[:], b) {
			t.Error("a certificate reads back differently")
		}
	})
}

func FuzzDecodePage(f *testing.F) {
	seeds(f, entries([2]uint32{0, 0}), entries([2]uint32{20, 0}, [2]uint32{20, 2}, [2]uint32{19, 2}), entries())
	f.Fuzz(func(t *testing.T, b []byte) {
		nodes, err := decodePage(b)
		clean(t, err)
		if err != nil {
			return
		}
		again := binary.BigEndian.AppendUint32(nil, uint32(len(nodes)))
		for _, n := range nodes {
			again = binary.BigEndian.AppendUint32(append(again, n.depth), n.index)
			again = append(again, n.key.bytes()...)
		}
		if !bytes.Equal(again, b) {
			t.Error("a page reads back differently")
		}
		p := &Page{nodes: nodes, path: &pagePath{cover: -1, keys: new([pageDepth + 1][32]byte)}}
		if len(nodes) > 0 {
			n := nodes[0]
			if _, err := p.Leaf(n.first()); err != nil {
				t.Errorf("the first leaf of a node: %v", err)
			}
			p.Puncture(n.first(), n.end()-1)
		}
	})
}

func FuzzOpenPage(f *testing.F) {
	w := newWorld(f)
	pair, bind := w.day(f, today+30), testPageBinding(today+30)
	_, sealed, err := NewPage(pair.Public(), bind)
	if err != nil {
		f.Fatal(err)
	}
	seeds(f, sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := OpenPage(pair, bind, b)
		clean(t, err)
		if err == nil && !bytes.Equal(b, sealed) {
			t.Error("a forged page opens")
		}
	})
}

func FuzzOpenSmall(f *testing.F) {
	c, l, b := NewCodec(), testLeaf(1), testBinding(1)
	raw, commit := c.SealSmall(l, b, []byte("short"))
	packed, _ := c.SealSmall(l, b, text(300, 1))
	seeds(f, raw, packed)
	f.Fuzz(func(t *testing.T, sealed []byte) {
		_, err := c.OpenSmall(l, b, commit, sealed, 1<<20)
		clean(t, err)
		if err == nil && !bytes.Equal(sealed, raw) && !bytes.Equal(sealed, packed) {
			t.Error("a forged value opens")
		}
	})
}

// What a holder of the key may have put inside a seal.
func FuzzUnpack(f *testing.F) {
	c := NewCodec()
	seeds(f, c.pack(nil, text(300, 1), 0), c.pack(nil, []byte("raw"), 0), c.pack(nil, make([]byte, 1<<20), 0))
	f.Fuzz(func(t *testing.T, packed []byte) {
		const most = 1 << 16
		plain, err := c.unpack(bytes.Clone(packed), most)
		clean(t, err)
		if err != nil {
			return
		}
		if len(plain) > most {
			t.Errorf("%d bytes, more than allowed", len(plain))
		}
		again, err := c.unpack(c.pack(nil, plain, 0), most)
		if err != nil || !bytes.Equal(again, plain) {
			t.Errorf("a value reads back differently: %v", err)
		}
	})
}

func FuzzOpenStream(f *testing.F) {
	c, l, b := NewCodec(), testLeaf(1), testBinding(1)
	sealed, commit := sealStream(f, c, l, b, text(3000, 1), 1000)
	seeds(f, sealed)
	f.Fuzz(func(t *testing.T, bad []byte) {
		_, err := readAll(c, l, b, commit, bad)
		clean(t, err)
		if err == nil && !bytes.Equal(bad, sealed) {
			t.Error("a forged stream opens")
		}
	})
}

// A table that a holder of the key made up, over chunks that it made up.
func FuzzStreamTable(f *testing.F) {
	c, l, b := NewCodec(), testLeaf(1), testBinding(1)
	key, commit, ad := messageKey(l, b, useStream)
	aead := newAEAD(key)
	seal := func(k kind, n uint32, plain []byte) []byte {
		nonce := k.nonce(n)
		return aead.Seal(nil, nonce[:], plain, ad)
	}
	table := func(size uint64, n uint32, lengths ...uint32) []byte {
		t := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, size), n)
		for _, l := range lengths {
			t = binary.BigEndian.AppendUint32(t, l)
		}
		return t
	}
	f.Add(table(5, 1, 22), []byte("\x01hello"), []byte{}, uint32(1))
	f.Add(table(0, 1, 17), []byte("\x01"), []byte{}, uint32(1))
	f.Add(table(1<<63-1, 1, 22), []byte("\x01hello"), []byte{}, uint32(1))
	f.Add(table(1<<63, 1, 22), []byte("\x01hello"), []byte{}, uint32(1))
	f.Add(table(chunkSize+5, 2, 40, 22), c.compress([]byte{flagZstd}, make([]byte, chunkSize)), []byte("\x01hello"), uint32(2))
	f.Fuzz(func(t *testing.T, table, first, second []byte, count uint32) {
		var stream []byte
		if len(second) > 0 {
			stream = append(seal(kindChunk, 0, first), seal(kindLast, 1, second)...)
		} else {
			stream = seal(kindLast, 0, first)
		}
		sealed := seal(kindTable, count, table)
		stream = binary.BigEndian.AppendUint32(append(stream, sealed...), uint32(len(sealed)))
		r, err := c.OpenStream(l, b, commit, bytes.NewReader(stream), int64(len(stream)))
		clean(t, err)
		if err != nil {
			return
		}
		plain, err := io.ReadAll(r)
		clean(t, err)
		at := make([]byte, min(r.Size(), 4*chunkSize))
		n, errAt := r.ReadAt(at, 0)
		if errors.Is(errAt, io.EOF) { // of an empty body
			errAt = nil
		}
		if (err == nil) != (errAt == nil) || err == nil && (int64(len(plain)) != r.Size() || !bytes.Equal(plain, at[:n])) {
			t.Errorf("%d of %d bytes, %v; read at once %d, %v", len(plain), r.Size(), err, n, errAt)
		}
	})
}

func FuzzStreamReads(f *testing.F) {
	c, l, b := NewCodec(), testLeaf(1), testBinding(1)
	f.Add(uint32(chunkSize*2+5), uint64(1), int64(chunkSize-3), uint16(70))
	f.Add(uint32(0), uint64(1), int64(0), uint16(1))
	f.Fuzz(func(t *testing.T, size uint32, seed uint64, off int64, n uint16) {
		plain := text(int(size%(4*chunkSize)), seed%8)
		sealed, commit := sealStream(t, c, l, b, plain, 5000)
		r, err := c.OpenStream(l, b, commit, bytes.NewReader(sealed), int64(len(sealed)))
		if err != nil {
			t.Fatal(err)
		}
		got, want := make([]byte, n), make([]byte, n)
		i, errGot := r.ReadAt(got, off)
		j, errWant := bytes.NewReader(plain).ReadAt(want, off)
		if i != j || (errGot == nil) != (errWant == nil) || !bytes.Equal(got[:i], want[:j]) {
			t.Errorf("read %d at %d of %d: %d, %v; want %d, %v", n, off, len(plain), i, errGot, j, errWant)
		}
	})
}

func FuzzOpenState(f *testing.F) {
	k, b := newWorld(f).tenant, testBinding(1)
	sealed, commit := k.SealState(b, []byte("a state"))
	seeds(f, sealed)
	f.Fuzz(func(t *testing.T, bad []byte) {
		_, err := k.OpenState(b, commit, bad)
		clean(t, err)
		if err == nil && !bytes.Equal(bad, sealed) {
			t.Error("a forged state opens")
		}
	})
}

func FuzzLocalOpen(f *testing.F) {
	s := newWorld(f).day(f, today+1).LocalSealer(NewCodec())
	sealed := s.Seal([]byte("c"), text(300, 1))
	seeds(f, sealed)
	f.Fuzz(func(t *testing.T, bad []byte) {
		_, err := s.Open([]byte("c"), bad)
		clean(t, err)
		if err == nil && !bytes.Equal(bad, sealed) {
			t.Error("a forged value opens")
		}
	})
}
