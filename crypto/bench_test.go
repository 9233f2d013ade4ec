package crypto

import (
	"bytes"
	"io"
	"testing"
)

func BenchmarkSealSmall(b *testing.B) {
	for name, n := range map[string]int{"200B": 200, "10KB": 10_000} {
		b.Run(name, func(b *testing.B) {
			c, l, plain := NewCodec(), testLeaf(1), text(n, 1)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				c.SealSmall(l, testBinding(1), plain)
			}
		})
	}
}

func BenchmarkOpenSmall(b *testing.B) {
	c, l, plain := NewCodec(), testLeaf(1), text(10_000, 1)
	sealed, commit := c.SealSmall(l, testBinding(1), plain)
	b.SetBytes(10_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.OpenSmall(l, testBinding(1), commit, sealed, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealState(b *testing.B) {
	k, plain := newWorld(b).tenant, text(60, 1)
	b.ReportAllocs()
	for b.Loop() {
		k.SealState(testBinding(1), plain)
	}
}

func BenchmarkStream(b *testing.B) {
	for name, n := range map[string]int{"10KB": 10_000, "10MB": 10_000_000} {
		c, l, plain := NewCodec(), testLeaf(1), text(n, 1)
		var out bytes.Buffer
		var commit Commitment
		b.Run("seal "+name, func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				out.Reset()
				s := c.NewStreamSealer(l, testBinding(1), &out)
				if _, err := s.Write(plain); err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				commit = s.Commitment()
			}
		})
		b.Run("open "+name, func(b *testing.B) {
			sealed := out.Bytes()
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				r, err := c.OpenStream(l, testBinding(1), commit, bytes.NewReader(sealed), int64(len(sealed)))
				if err != nil {
					b.Fatal(err)
				}
				if m, err := io.Copy(onlyWriter{io.Discard}, r); err != nil || m != int64(n) {
					b.Fatal(m, err)
				}
			}
		})
	}
}

// onlyWriter hides io.Discard's ReadFrom.
type onlyWriter struct{ io.Writer }

func BenchmarkPage(b *testing.B) {
	w := newWorld(b)
	pair, bind := w.day(b, today+30), testPageBinding(today+30)
	sealer, sealed, err := NewPage(pair.Public(), bind)
	if err != nil {
		b.Fatal(err)
	}
	page, err := OpenPage(pair, bind, sealed)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("derive the day pair", func(b *testing.B) {
		for b.Loop() {
			w.day(b, today+30)
		}
	})
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := NewPage(pair.Public(), bind); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if _, err := OpenPage(pair, bind, sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("next", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := sealer.Next(); err != nil {
				sealer, _, _ = NewPage(pair.Public(), bind)
			}
		}
	})
	b.Run("leaf in order", func(b *testing.B) {
		b.ReportAllocs()
		var i uint32
		for b.Loop() {
			if _, err := page.Leaf(i % PageLeaves); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	b.Run("leaf at random", func(b *testing.B) {
		b.ReportAllocs()
		var i uint32
		for b.Loop() {
			if _, err := page.Leaf(i * 2654435761 % PageLeaves); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}

func BenchmarkLocalSealer(b *testing.B) {
	s := newWorld(b).day(b, today+1).LocalSealer(NewCodec())
	for name, n := range map[string]int{"100B": 100, "4KB": 4000} {
		plain := text(n, 1)
		sealed := s.Seal(nil, plain)
		b.Run("seal "+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Seal(nil, plain)
			}
		})
		b.Run("open "+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Open(nil, sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHeader(b *testing.B) {
	w := newWorld(b)
	node, err := NewNodeKey(b.Context(), w.root, 2)
	if err != nil {
		b.Fatal(err)
	}
	installation, _ := w.root.InstallationKey(b.Context())
	header := text(10_000, 1)
	sig := node.Sign(header)
	b.Run("sign", func(b *testing.B) {
		for b.Loop() {
			node.Sign(header)
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if err := VerifyHeader(node.Certificate(), installation, header, sig); err != nil {
				b.Fatal(err)
			}
		}
	})
}
