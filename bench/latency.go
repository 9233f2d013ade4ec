package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"holdfast/bench/loadgen"
	"holdfast/objstore"
	filebucket "holdfast/objstore/fs"
)

// The rows of this file hold the time from the final dot to its 250 to that of a
// bare Put into a file bucket: what it cannot be less than.

// putP99: the 99th percentile with twenty sessions sending as fast as they can,
// beside that of Puts of the size of the run's segments, one at a time, half of
// them before the run and half after it.
func putP99(ctx context.Context, b *bench) (outcome, error) {
	const puts, most = 500, 3.0
	s, err := b.newHeldSite(ctx, siteOptions{})
	if err != nil {
		return outcome{}, err
	}
	_, err = b.send(ctx, "holdfast, to warm up", s.SMTP, b.messages(), 500)
	var segments written
	if err == nil {
		segments, err = s.segments()
	}
	if err != nil {
		return outcome{}, errors.Join(err, s.stop())
	}
	bare, err := b.newBarePuts()
	if err != nil {
		return outcome{}, errors.Join(err, s.stop())
	}
	err = bare.put(ctx, puts, segments.mean())
	var r loadgen.Result
	if err == nil {
		r, _, err = b.sendMeasured(ctx, s, b.messages(), b.count)
	}
	if err == nil {
		segments, err = s.segments()
	}
	if err == nil {
		err = bare.put(ctx, puts, segments.mean())
	}
	err = errors.Join(err, bare.close(), s.stop())
	if err != nil {
		return outcome{}, err
	}
	base := loadgen.Percentiles(bare.took)
	b.say("  bare Put of %d bytes: p50 %v, p99 %v", segments.mean(), micros(base.P50), micros(base.P99))
	ratio := float64(r.Dot.P99) / float64(base.P99)
	return outcome{
		holdfast: fmt.Sprintf("%v (p50 %v)", micros(r.Dot.P99), micros(r.Dot.P50)),
		peer:     fmt.Sprintf("Put %v (p50 %v)", micros(base.P99), micros(base.P50)),
		ratio:    fmt.Sprintf("%.1f", ratio),
		target:   fmt.Sprintf("at most %.0f ×", most),
		met:      ratio <= most,
	}, nil
}

// lone: the median of messages of 10 KB that come one at a time, beside that of
// Puts of the same size, one after each message.
func lone(ctx context.Context, b *bench) (outcome, error) {
	const rounds, size, most = 300, 10_000, 2.0
	s, err := b.newHeldSite(ctx, siteOptions{})
	if err != nil {
		return outcome{}, err
	}
	bare, err := b.newBarePuts()
	if err != nil {
		return outcome{}, errors.Join(err, s.stop())
	}
	pool := b.small(size)
	c, err := loadgen.Dial(ctx, s.SMTP, time.Minute)
	var dots []time.Duration
	for i := 0; err == nil && i < rounds; i++ {
		var dot time.Duration
		dot, err = c.Send(&pool[i%len(pool)], loadgen.MessageID("lone", i))
		dots = append(dots, dot)
		if err == nil {
			err = bare.put(ctx, 1, size)
		}
	}
	if c != nil {
		err = errors.Join(err, c.Quit())
	}
	if err = errors.Join(err, bare.close(), s.stop()); err != nil {
		return outcome{}, err
	}
	ours, base := loadgen.Percentiles(dots), loadgen.Percentiles(bare.took)
	ratio := float64(ours.P50) / float64(base.P50)
	return outcome{
		holdfast: fmt.Sprintf("%v (p99 %v)", micros(ours.P50), micros(ours.P99)),
		peer:     fmt.Sprintf("Put %v (p99 %v)", micros(base.P50), micros(base.P99)),
		ratio:    fmt.Sprintf("%.2f", ratio),
		target:   fmt.Sprintf("at most %.0f ×", most),
		met:      ratio <= most,
	}, nil
}

// largeOne: a lone message of 50 MB, from MAIL to its 250, beside the same bytes
// written to one file and fsynced, each in turn.
func largeOne(ctx context.Context, b *bench) (outcome, error) {
	const rounds, size, least = 5, 50_000_000, 0.60
	s, err := b.newHeldSite(ctx, siteOptions{})
	if err != nil {
		return outcome{}, err
	}
	dir, err := b.subdir("disk")
	if err != nil {
		return outcome{}, errors.Join(err, s.stop())
	}
	pool := loadgen.Generate(loadgen.Spec{Seed: 2, Count: 1, Domain: domain, Recipients: users, FixedSize: size})
	var disk, ours []time.Duration
	c, err := loadgen.Dial(ctx, s.SMTP, time.Minute)
	for i := 0; err == nil && i < rounds; i++ {
		begin := time.Now()
		if err = writeFile(filepath.Join(dir, fmt.Sprint(i)), pool[0].Wire); err != nil {
			break
		}
		disk = append(disk, time.Since(begin))
		begin = time.Now()
		_, err = c.Send(&pool[0], loadgen.MessageID("large", i))
		ours = append(ours, time.Since(begin))
	}
	if c != nil {
		err = errors.Join(err, c.Quit())
	}
	if err = errors.Join(err, s.stop()); err != nil {
		return outcome{}, err
	}
	rate := func(times []time.Duration) float64 { return size / 1e6 / loadgen.Percentiles(times).P50.Seconds() }
	ratio := rate(ours) / rate(disk)
	return outcome{
		holdfast: fmt.Sprintf("%.0f MB/s", rate(ours)),
		peer:     fmt.Sprintf("disk %.0f MB/s", rate(disk)),
		ratio:    fmt.Sprintf("%.2f", ratio),
		target:   fmt.Sprintf("%.0f %%", 100*least),
		met:      ratio >= least,
	}, nil
}

// writeFile writes in pieces of the size of body parts, and fsyncs once.
func writeFile(name string, data []byte) error {
	const piece = 4 << 20
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	for p := range slices.Chunk(data, piece) {
		if _, err := f.Write(p); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// barePuts is a file bucket of its own, on the same disk as the node's, and how
// long Puts into it took.
type barePuts struct {
	bucket *filebucket.Bucket
	next   int
	took   []time.Duration
}

func (b *bench) newBarePuts() (*barePuts, error) {
	dir, err := b.subdir("puts")
	if err != nil {
		return nil, err
	}
	bucket, err := filebucket.Open(dir)
	if err != nil {
		return nil, err
	}
	return &barePuts{bucket: bucket}, nil
}

// put makes n Puts, one after the other, in the manner of the log's.
func (p *barePuts) put(ctx context.Context, n, size int) error {
	value := make([]byte, size)
	for range n {
		p.next++
		begin := time.Now()
		_, err := p.bucket.Put(ctx, fmt.Sprintf("log/00/%020d", p.next), bytes.NewReader(value), int64(size), objstore.PutOptions{IfAbsent: true})
		if err != nil {
			return err
		}
		p.took = append(p.took, time.Since(begin))
	}
	return nil
}

func (p *barePuts) close() error { return p.bucket.Close() }

// written is what a node's file bucket holds of the log.
type written struct {
	segments int
	bytes    int64
}

// mean is the mean size of a segment.
func (w written) mean() int { return int(w.bytes / int64(max(1, w.segments))) }

// segments counts the log's segments in the node's file bucket.
func (s *site) segments() (w written, err error) {
	err = filepath.WalkDir(filepath.Join(s.Dir, "bucket", "log"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		w.segments++
		w.bytes += info.Size()
		return nil
	})
	return w, err
}

// newHeldSite is a site that accepts and delivers nothing.
func (b *bench) newHeldSite(ctx context.Context, o siteOptions) (*site, error) {
	s, err := b.newSite(ctx, o)
	if err != nil {
		return nil, err
	}
	if _, err := s.Must(ctx, "failover", "on", domain); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// small is a pool of messages of about one size.
func (b *bench) small(size int) []loadgen.Message {
	return loadgen.Generate(loadgen.Spec{Seed: 5, Count: 500, Domain: domain, Recipients: users, FixedSize: size})
}

func micros(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
