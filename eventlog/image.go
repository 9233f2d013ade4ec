package eventlog

import (
	"errors"
	"io"
	"slices"
)

// image is the bytes of a segment as they are put: the front in one piece, and
// the inline bodies where they were sealed, since most of the bytes are there.
// It is not changed once it is built.
type image struct {
	front  []byte // header, signature, state and metadata parts
	bodies [][]byte
	starts []int64 // offsets of the bodies
	size   int64
}

func newImage(front []byte) *image { return &image{front: front, size: int64(len(front))} }

// add appends an inline body.
func (m *image) add(body []byte) {
	if len(body) == 0 {
		return
	}
	m.bodies = append(m.bodies, body)
	m.starts = append(m.starts, m.size)
	m.size += int64(len(body))
}

// piece returns the bytes from off to the end of the piece that holds it; none at
// the end of the segment.
func (m *image) piece(off int64) []byte {
	if off < int64(len(m.front)) {
		return m.front[off:]
	}
	i, found := slices.BinarySearch(m.starts, off)
	if !found {
		i-- // the body that begins before off
	}
	if i < 0 || off >= m.size {
		return nil
	}
	return m.bodies[i][off-m.starts[i]:]
}

// slice returns n bytes at off, which lie in the front or in one body: parts do.
func (m *image) slice(off, n int64) ([]byte, bool) {
	p := m.piece(off)
	if int64(len(p)) < n {
		return nil, false
	}
	return p[:n:n], true
}

// reader returns what reads the whole.
func (m *image) reader() *imageReader { return &imageReader{m: m} }

// imageReader implements io.ReadSeeker and io.WriterTo.
type imageReader struct {
	m   *image
	off int64
}

// Read implements io.Reader.
func (r *imageReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		piece := r.m.piece(r.off)
		if len(piece) == 0 {
			break
		}
		k := copy(p[n:], piece)
		r.off += int64(k)
		n += k
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *imageReader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		piece := r.m.piece(r.off)
		if len(piece) == 0 {
			return n, nil
		}
		k, err := w.Write(piece)
		r.off += int64(k)
		n += int64(k)
		if err != nil {
			return n, err
		}
		if k < len(piece) {
			return n, io.ErrShortWrite
		}
	}
}

// Seek implements io.Seeker.
func (r *imageReader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.off
	case io.SeekEnd:
		off += r.m.size
	}
	if off < 0 {
		return 0, errors.New("seek before the beginning")
	}
	r.off = off
	return off, nil
}
