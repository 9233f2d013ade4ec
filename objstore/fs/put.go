package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/objstore"
)

// copyBuffer is the piece in which bodies are written, and between two of which
// a cancelled Put stops.
const copyBuffer = 128 << 10

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// Put implements objstore.Bucket. It can be cancelled until the value gets its
// name; from there it sees the commit through.
//
// Its error wraps objstore.ErrAmbiguous only together with ErrPoisoned: the
// value has its name, but whether it would survive a crash is unknown.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	info, err := b.put(ctx, key, body, size, opt)
	if err != nil {
		return objstore.Info{}, fmt.Errorf("fs put: %w", err)
	}
	return info, nil
}

func (b *Bucket) put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	if err := objstore.ValidKey(key); err != nil {
		return objstore.Info{}, err
	}
	if err := opt.Validate(); err != nil {
		return objstore.Info{}, err
	}
	if err := errors.Join(ctx.Err(), b.poisoned()); err != nil {
		return objstore.Info{}, err
	}
	if opt.IfAbsent {
		// Spares a loser that comes late from writing its body.
		if fi, err := b.root.Lstat(key); err == nil && fi.Mode().IsRegular() {
			return objstore.Info{}, b.confirmExists(ctx, key)
		}
	}
	tmp, err := b.writeTemp(ctx, body, size)
	if err != nil {
		return objstore.Info{}, err
	}
	// After a rename there is nothing to remove, and what cannot be removed is
	// swept at the next start.
	defer b.root.Remove(tmp)
	if err := b.ensureDir(path.Dir(key)); err != nil {
		return objstore.Info{}, fmt.Errorf("make directory: %w", err)
	}
	release, err := b.keys.acquire(ctx, key)
	if err != nil {
		return objstore.Info{}, err
	}
	defer release()
	if err := errors.Join(ctx.Err(), b.poisoned()); err != nil {
		return objstore.Info{}, err
	}
	return b.commit(key, tmp, opt)
}

// writeTemp writes the body to a new temporary file, fsyncs it and returns its
// name. On error nothing is left.
func (b *Bucket) writeTemp(ctx context.Context, body io.ReadSeeker, size int64) (name string, err error) {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("rewind body: %w", err)
	}
	tmp := path.Join(tmpName, strconv.FormatUint(b.tmpSeq.Add(1), 10))
	f, err := b.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("make temporary file: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close temporary file: %w", cerr)
		}
		if err != nil {
			b.root.Remove(tmp)
		}
	}()
	if err := b.copyBody(ctx, tmp, f, body, size); err != nil {
		return "", err
	}
	// The time is set before the fsync, so that it is as durable as the bytes.
	now := time.Now()
	if err := b.root.Chtimes(tmp, now, now); err != nil {
		return "", fmt.Errorf("set file time: %w", err)
	}
	if err := b.hooks.syncFile(tmp, f); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return "", fmt.Errorf("fsync temporary file: %w", err)
		}
		return "", b.poisonWith("fsync of a new file", err)
	}
	return tmp, nil
}

func (b *Bucket) copyBody(ctx context.Context, name string, f *os.File, body io.Reader, size int64) error {
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := body.Read(buf[:])
		total += int64(n)
		if total > size {
			return objstore.ErrBody
		}
		if n > 0 {
			if _, err := b.hooks.write(name, f, buf[:n]); err != nil {
				return fmt.Errorf("write temporary file: %w", err)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read body: %w", err)
		}
	}
	if total != size {
		return objstore.ErrBody
	}
	return nil
}

// commit gives the temporary file the key's name, durably. The caller holds the
// key. From here on nothing is cancelled: the outcome has to be known.
func (b *Bucket) commit(key, tmp string, opt objstore.PutOptions) (objstore.Info, error) {
	old, err := b.root.Lstat(key)
	exists := err == nil && old.Mode().IsRegular()
	switch {
	case err != nil && !errors.Is(err, iofs.ErrNotExist):
		return objstore.Info{}, err
	case opt.IfMatch != "" && (!exists || infoOf(key, old).ETag != opt.IfMatch):
		return objstore.Info{}, objstore.ErrChanged
	}
	if exists && !opt.IfAbsent {
		if err := b.advanceTime(tmp, old.ModTime()); err != nil {
			return objstore.Info{}, err
		}
	}

	dir := path.Dir(key)
	df, err := b.openDir(dir)
	if err != nil {
		b.dirs.forget() // Perhaps an operator removed it; the next Put makes it again.
		return objstore.Info{}, err
	}
	defer df.Close()

	b.keys.begin(key)
	if opt.IfAbsent {
		err = b.root.Link(tmp, key)
	} else {
		err = b.root.Rename(tmp, key)
	}
	if err != nil {
		b.keys.end(key, false)
		if errors.Is(err, iofs.ErrExist) && opt.IfAbsent {
			return objstore.Info{}, b.syncExisting(key)
		}
		return objstore.Info{}, fmt.Errorf("name the file: %w", err)
	}
	if opt.IfAbsent {
		// Removed before the directory is fsynced, so that one journal commit
		// takes both; an error leaves it to the sweep.
		b.root.Remove(tmp)
	}
	if err := b.syncDir(dir, df); err != nil {
		b.keys.end(key, true)
		return objstore.Info{}, fmt.Errorf("%w: %w", objstore.ErrAmbiguous, err)
	}
	fi, err := b.root.Lstat(key)
	b.keys.end(key, false)
	if err != nil {
		return objstore.Info{}, fmt.Errorf("%w: stat the new file: %w", objstore.ErrAmbiguous, err)
	}
	return infoOf(key, fi), nil
}

// advanceTime makes sure that the new file's modification time, and so its
// ETag, differs from the one it replaces, whatever the clock did. It fsyncs again
// in the rare case that it had to change something.
func (b *Bucket) advanceTime(tmp string, old time.Time) error {
	fi, err := b.root.Lstat(tmp)
	if err != nil {
		return err
	}
	if fi.ModTime().After(old) {
		return nil
	}
	f, err := b.root.OpenFile(tmp, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	next := old.Add(1)
	if err := b.root.Chtimes(tmp, next, next); err != nil {
		return fmt.Errorf("set file time: %w", err)
	}
	if err := b.hooks.syncFile(tmp, f); err != nil {
		return b.poisonWith("fsync of a new file", err)
	}
	return nil
}

// confirmExists waits for a commit of the key that may be under way and then
// answers as syncExisting does.
func (b *Bucket) confirmExists(ctx context.Context, key string) error {
	release, err := b.keys.acquire(ctx, key)
	if err != nil {
		return err
	}
	defer release()
	return b.syncExisting(key)
}

// syncExisting returns ErrExists after making sure that the existing value is
// durable: whoever hears "exists" may go on to rely on it. The caller holds the
// key.
func (b *Bucket) syncExisting(key string) error {
	if err := b.poisoned(); err != nil {
		return err
	}
	f, err := b.root.Open(key)
	if errors.Is(err, iofs.ErrNotExist) {
		return objstore.ErrExists // Deleted since; the contract lets the caller find that out.
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return fmt.Errorf("the key is the directory of other keys: %w", errors.Join(err, unix.EISDIR))
	}
	df, err := b.openDir(path.Dir(key))
	if err != nil {
		return err
	}
	defer df.Close()
	if err := b.hooks.syncFile(key, f); err != nil {
		return b.poisonWith("fsync of an existing file", err)
	}
	if err := b.syncDir(path.Dir(key), df); err != nil {
		return err
	}
	return objstore.ErrExists
}

// Delete implements objstore.Bucket. The removal is durable when it returns;
// directories stay.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := b.delete(ctx, key); err != nil {
		return fmt.Errorf("fs delete: %w", err)
	}
	return nil
}

func (b *Bucket) delete(ctx context.Context, key string) error {
	if err := objstore.ValidKey(key); err != nil {
		return err
	}
	if err := errors.Join(ctx.Err(), b.poisoned()); err != nil {
		return err
	}
	release, err := b.keys.acquire(ctx, key)
	if err != nil {
		return err
	}
	defer release()
	fi, err := b.root.Lstat(key)
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || err == nil && fi.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	df, err := b.openDir(path.Dir(key))
	if err != nil {
		return err
	}
	defer df.Close()
	if err := b.root.Remove(key); err != nil {
		return err
	}
	return b.syncDir(path.Dir(key), df)
}
