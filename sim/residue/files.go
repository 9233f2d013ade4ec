package residue

import (
	"crypto/aes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/y"

	"holdfast/event"
	"holdfast/projection"
)

// remain is a key with a value that it has, or had once, in a file of a database.
type remain struct {
	file       string
	key, value []byte
}

// What a value is, in a file of Badger's.
const (
	isDeleted = 1 << 0
	isPointer = 1 << 1 // to where the value stands in another file
)

// journalChunk begins the keys of commits that were too large for a transaction.
const journalChunk = 0xf0

// remains reads all that stands in the files of a local database: its tables,
// listed or left behind, and its logs, with every version of every key, whether
// or not the database would still show it. It only reads, and the database may be
// in use: what is being written meanwhile is passed over, and so is a file that
// goes away. read says how many files there were something in.
func remains(dir string, key []byte, fn func(remain) error) (read int, err error) {
	reg, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, ReadOnly: true, EncryptionKey: key})
	if err != nil {
		return 0, fmt.Errorf("open the keys of a database: %w", err)
	}
	var keys [][]byte
	for id := uint64(1); ; id++ {
		k, err := reg.DataKey(id)
		if err != nil {
			break // there are no more
		}
		keys = append(keys, k.Data)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("look at the files of a database: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return read, fmt.Errorf("read a file of a database: %w", err)
		}
		n := 0
		give := func(k, v []byte) error { n++; return giveRemain(name, k, v, fn) }
		switch filepath.Ext(name) {
		case ".sst":
			err = errTable
			for i := len(keys) - 1; i >= 0 && errors.Is(err, errTable); i-- {
				err = readTable(data, keys[i], give)
			}
			if errors.Is(err, errTable) {
				err = nil // it is being written
			}
		case ".mem", ".vlog":
			err = readLog(data, keys, give)
		}
		if err != nil {
			return read, err
		}
		if n > 0 {
			read++
		}
	}
	return read, nil
}

// giveRemain gives a key and value, and those that a journal has.
func giveRemain(file string, key, value []byte, fn func(remain) error) error {
	if len(key) == 5 && key[0] == journalChunk {
		var ops []projection.Op
		if event.Unmarshal(value, &ops) == nil {
			for _, op := range ops {
				if err := fn(remain{file, op.Key, op.Value}); err != nil {
					return err
				}
			}
		}
	}
	return fn(remain{file, key, value})
}

// errTable says that a file is no whole table, or not of this key.
var errTable = errors.New("no table")

// readTable reads a table: blocks, each with its vector at its end, and behind
// them the index, the lengths of it and of its checksum.
func readTable(data, key []byte, give func(k, v []byte) error) (err error) {
	defer func() {
		if p := recover(); p != nil { // what is decrypted with another key is anything
			err = errTable
		}
	}()
	end := len(data) - 4
	end -= int(binary.BigEndian.Uint32(data[end:])) + 4
	size := int(binary.BigEndian.Uint32(data[end:]))
	index := fb.GetRootAsTableIndex(decrypt(data[end-size:end], key), 0)
	for i := range index.OffsetsLength() {
		var at fb.BlockOffset
		if !index.Offsets(&at, i) {
			return errTable
		}
		block := decrypt(data[at.Offset():at.Offset()+at.Len()], key)
		if err := readBlock(block, give); err != nil {
			return err
		}
	}
	return nil
}

// readBlock reads the entries of a block. Behind them are where they begin, how
// many they are, a checksum and its length.
func readBlock(block []byte, give func(k, v []byte) error) error {
	end := len(block) - 4
	end -= int(binary.BigEndian.Uint32(block[end:])) + 4
	n := int(binary.BigEndian.Uint32(block[end:]))
	starts := block[end-4*n : end]
	var base []byte
	for i := range n {
		from, to := binary.LittleEndian.Uint32(starts[4*i:]), uint32(end-4*n)
		if i+1 < n {
			to = binary.LittleEndian.Uint32(starts[4*i+4:])
		}
		e := block[from:to]
		overlap, diff := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:])
		key := append(append([]byte{}, base[:overlap]...), e[4:4+diff]...)
		if i == 0 {
			base = key
		}
		var v y.ValueStruct
		v.Decode(e[4+diff:])
		if v.Meta&(isDeleted|isPointer) != 0 {
			continue
		}
		if err := give(y.ParseKey(key), v.Value); err != nil {
			return err
		}
	}
	return nil
}

// decrypt decrypts what has its vector at its end.
func decrypt(data, key []byte) []byte {
	n := len(data) - aes.BlockSize
	plain, err := y.XORBlockAllocate(data[:n], key, data[n:])
	if err != nil {
		panic(err)
	}
	return plain
}

const logHeader = 20 // the number of the key (8), and what the vectors begin with

// readLog reads a log, of values or of what is in memory, up to where it ends or
// is torn.
func readLog(data []byte, keys [][]byte, give func(k, v []byte) error) error {
	if len(data) < logHeader {
		return nil
	}
	id := binary.BigEndian.Uint64(data)
	if id < 1 || id > uint64(len(keys)) {
		return nil
	}
	vector := append(append([]byte{}, data[8:logHeader]...), 0, 0, 0, 0)
	for at := logHeader; at+2 < len(data); {
		meta, n := data[at], at+2
		var sizes [3]uint64 // key, value, and when it expires
		for i := range sizes {
			v, w := binary.Uvarint(data[n:])
			if w <= 0 {
				return nil
			}
			sizes[i], n = v, n+w
		}
		end := uint64(n) + sizes[0] + sizes[1]
		if sizes[0] == 0 || sizes[0]|sizes[1] > uint64(len(data)) || end+4 > uint64(len(data)) ||
			crc32.Checksum(data[at:end], y.CastagnoliCrcTable) != binary.BigEndian.Uint32(data[end:]) {
			return nil
		}
		binary.BigEndian.PutUint32(vector[12:], uint32(at))
		plain, err := y.XORBlockAllocate(data[n:end], keys[id-1], vector)
		if err != nil {
			return fmt.Errorf("decrypt a log: %w", err)
		}
		if key := plain[:sizes[0]]; len(key) > 8 && meta&(isDeleted|isPointer) == 0 {
			if err := give(y.ParseKey(key), plain[sizes[0]:]); err != nil {
				return err
			}
		}
		at = int(end) + 4
	}
	return nil
}
