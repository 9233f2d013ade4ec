package eventlog

import (
	"encoding/binary"
	"testing"
)

func TestSieve(t *testing.T) {
	s := newSieve()
	name := func(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	const many = 4 * sieveExact
	wrong := 0
	for n := range many {
		if s.has(name(n)) {
			wrong++
		}
		s.add(name(n))
	}
	for n := range many {
		if !s.has(name(n)) {
			t.Fatalf("%d was added and is not found", n)
		}
	}
	if wrong > many/1000 {
		t.Errorf("%d of %d were found before they were added", wrong, many)
	}
}
