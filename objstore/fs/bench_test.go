package fs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/objstore"
)

// cpuTime is what this process has used of all processors, which other work on
// the machine disturbs less than the clock.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func BenchmarkPut16K(b *testing.B)  { benchmarkPut(b, 16<<10) }
func BenchmarkPut512K(b *testing.B) { benchmarkPut(b, 512<<10) }

func benchmarkPut(b *testing.B, size int) {
	bucket, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer bucket.Close()
	value := bytes.Repeat([]byte("x"), size)
	var n atomic.Int64
	for _, parallel := range []int{1, 16} {
		b.Run(fmt.Sprint("writers=", parallel), func(b *testing.B) {
			b.SetParallelism(parallel)
			b.SetBytes(int64(len(value)))
			begin := cpuTime()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					key := fmt.Sprintf("log/00/%020d", n.Add(1))
					_, err := bucket.Put(b.Context(), key, bytes.NewReader(value), int64(len(value)), objstore.PutOptions{IfAbsent: true})
					if err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64((cpuTime()-begin).Microseconds())/float64(b.N), "cpu-µs/put")
		})
	}
}

// BenchmarkTwoSyncs16K is what a Put cannot be faster than: a file written and
// fsynced, its name made, the directory fsynced.
func BenchmarkTwoSyncs16K(b *testing.B) {
	dir := b.TempDir()
	value := bytes.Repeat([]byte("x"), 16<<10)
	d, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	b.SetBytes(int64(len(value)))
	for i := 0; b.Loop(); i++ {
		name := filepath.Join(dir, fmt.Sprintf("%020d", i))
		f, err := os.Create(name + ".tmp")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Write(value); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		f.Close()
		if err := os.Rename(name+".tmp", name); err != nil {
			b.Fatal(err)
		}
		if err := d.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}
