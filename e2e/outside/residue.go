package outside

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Residue looks for things that must not be readable where mail is kept. A needle
// is found plain in any case of letters, in base64 at any of its three alignments,
// in hex, in UTF-16, and inside zstd, gzip, zlib, deflate and snappy streams that
// begin anywhere in a file.
type Residue struct {
	needles []needle
}

type needle struct {
	what  string
	forms [][]byte // lower case where the search is
	exact [][]byte // base64, which has no case to ignore
}

// shortest is the length below which a needle would be found by chance.
const shortest = 8

// NewResidue returns a search for the given texts, which should be unlikely to
// occur by themselves; those shorter than eight bytes are an error.
func NewResidue(texts ...string) (*Residue, error) {
	r := &Residue{}
	for _, text := range texts {
		if len(text) < shortest {
			return nil, fmt.Errorf("needle %q is too short", text)
		}
		lower := []byte(strings.ToLower(text))
		wide := make([]byte, 0, 2*len(lower))
		for _, c := range lower {
			wide = append(wide, c, 0)
		}
		n := needle{what: text, forms: [][]byte{lower, lowered([]byte(text)), []byte(hex.EncodeToString([]byte(text))), wide}}
		for _, variant := range []string{text, strings.ToLower(text)} {
			for shift := range 3 {
				// Only characters that depend on the needle alone: those of the first and
				// the last group may mix with its neighbours.
				encoded := base64.StdEncoding.EncodeToString(append(make([]byte, shift), variant...))
				from, to := (shift*8+5)/6, (shift+len(variant))*8/6
				n.exact = append(n.exact, []byte(encoded[from:to]))
			}
		}
		r.needles = append(r.needles, n)
	}
	return r, nil
}

// Files searches every file below the roots and returns where something was
// found. A file that disappears meanwhile is nothing to find.
func (r *Residue) Files(roots ...string) ([]string, error) {
	var found []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			// A name can betray as much as what is in the file.
			found = append(found, r.Bytes(path, append([]byte(path+"\n"), data...))...)
			return nil
		})
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// Bytes searches one piece of data, named for the report.
func (r *Residue) Bytes(name string, data []byte) []string {
	found := r.plain(name, data)
	for _, c := range codecs {
		for at := 0; at < len(data); {
			i := bytes.Index(data[at:], c.magic)
			if i < 0 {
				break
			}
			at += i
			// A stream that is damaged after a while has been readable until then.
			out, _ := c.decode(data[at+c.skip:])
			if len(out) >= shortest {
				found = append(found, r.plain(fmt.Sprintf("%s (%s at %d)", name, c.name, at), out)...)
			}
			at += len(c.magic)
		}
	}
	return found
}

func (r *Residue) plain(name string, data []byte) []string {
	var found []string
	lower := lowered(data)
	for _, n := range r.needles {
		if slices.ContainsFunc(n.forms, func(f []byte) bool { return bytes.Contains(lower, f) }) ||
			slices.ContainsFunc(n.exact, func(f []byte) bool { return bytes.Contains(data, f) }) {
			found = append(found, fmt.Sprintf("%q in %s", n.what, name))
		}
	}
	return found
}

// lowered is bytes.ToLower for A to Z alone: that is slow where there are bytes
// beyond ASCII, and most of what is searched is sealed.
func lowered(data []byte) []byte {
	out := bytes.Clone(data)
	for i, c := range out {
		if 'A' <= c && c <= 'Z' {
			out[i] = c | 0x20
		}
	}
	return out
}

// codecs are the compressed streams that are recognised by how they begin, and
// how many bytes precede the stream proper.
var codecs = []struct {
	name   string
	magic  []byte
	skip   int
	decode func([]byte) ([]byte, error)
}{
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, 0, func(b []byte) ([]byte, error) {
		d, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return read(d)
	}},
	{"gzip", []byte{0x1f, 0x8b, 0x08}, 0, func(b []byte) ([]byte, error) {
		d, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return read(d)
	}},
	{"zlib", []byte{0x78, 0x01}, 0, unzlib},
	{"zlib", []byte{0x78, 0x9c}, 0, unzlib},
	{"zlib", []byte{0x78, 0xda}, 0, unzlib},
	{"deflate", []byte{0x78, 0x9c}, 2, func(b []byte) ([]byte, error) { return read(flate.NewReader(bytes.NewReader(b))) }},
	{"snappy", []byte("\xff\x06\x00\x00sNaPpY"), 0, func(b []byte) ([]byte, error) { return read(s2.NewReader(bytes.NewReader(b))) }},
	{"s2", []byte("\xff\x06\x00\x00S2sTwO"), 0, func(b []byte) ([]byte, error) { return read(s2.NewReader(bytes.NewReader(b))) }},
}

func unzlib(b []byte) ([]byte, error) {
	d, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return read(d)
}

// read reads what can be read of one stream, up to a bound.
func read(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, 64<<20)) }

func sortWords(s string) string {
	words := strings.Fields(s)
	slices.Sort(words)
	return strings.Join(words, " ")
}
