package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

const (
	// copyBuffer is the piece in which bodies are read that are not in memory.
	copyBuffer = 128 << 10
	// writePiece is the piece in which bodies are written, and between two of
	// which a cancelled Put stops.
	writePiece = 1 << 20
)

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// Put implements objstore.Bucket. It can be cancelled until the value gets its
// name; from there it sees the commit through.
//
// Its error wraps objstore.ErrAmbiguous when the value has, or may have, its
// name, but whether it would survive a crash is unknown: a sync has failed, which
// is also [ErrPoisoned], or the look at what stands under the name has.
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
	if err := b.ensureDir(path.Dir(key)); err != nil {
		return objstore.Info{}, fmt.Errorf("make directory: %w", err)
	}
	dir, err := b.dir(path.Dir(key))
	if err != nil {
		b.forgetDirs() // Perhaps an operator removed it; the next Put makes it again.
		return objstore.Info{}, err
	}
	defer b.handles.release(dir)
	if opt.IfAbsent && dir.fileExists(path.Base(key)) {
		// Spares a loser that comes late from writing its body.
		return objstore.Info{}, b.confirmExists(ctx, key)
	}
	tmp, err := b.writeTemp(ctx, body, size)
	if err != nil {
		return objstore.Info{}, err
	}
	defer b.discard(tmp)
	release, err := b.keys.acquire(ctx, key)
	if err != nil {
		return objstore.Info{}, err
	}
	defer release()
	if err := errors.Join(ctx.Err(), b.poisoned()); err != nil {
		return objstore.Info{}, err
	}
	return b.commit(key, dir, tmp, opt)
}

// forgetDirs is called when a directory is not what it was.
func (b *Bucket) forgetDirs() {
	b.dirs.forget()
	b.handles.forget()
}

// writeTemp writes the body to a new temporary file and fsyncs it. On error
// nothing is left.
func (b *Bucket) writeTemp(ctx context.Context, body io.ReadSeeker, size int64) (_ *temp, err error) {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("rewind body: %w", err)
	}
	t, err := b.newTemp()
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	defer func() {
		if err != nil {
			b.discard(t)
		}
	}()
	failpoint.Hit(failpoint.FSTempMade)
	if err := b.copyBody(ctx, t, body, size); err != nil {
		return nil, err
	}
	failpoint.Hit(failpoint.FSTempWritten)
	// The time is set before the fsync, so that it is as durable as the bytes.
	if err := t.setTime(time.Now()); err != nil {
		return nil, fmt.Errorf("set file time: %w", err)
	}
	if err := b.hooks.syncFile(t.name, t.f); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return nil, fmt.Errorf("fsync temporary file: %w", err)
		}
		return nil, b.poisonWith("fsync of a new file", err)
	}
	failpoint.Hit(failpoint.FSTempSynced)
	return t, nil
}

// copyBody writes the body in pieces, between two of which a cancelled Put
// stops. What has its bytes in memory already (an io.WriterTo) is not copied
// once more.
func (b *Bucket) copyBody(ctx context.Context, t *temp, body io.Reader, size int64) error {
	w := &bodyWriter{ctx: ctx, b: b, t: t, left: size}
	var err error
	if to, ok := body.(io.WriterTo); ok {
		_, err = to.WriteTo(w)
	} else {
		buf := buffers.Get().(*[copyBuffer]byte)
		defer buffers.Put(buf)
		// Without the reader's and the writer's own ideas of how to copy.
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{body}, buf[:])
	}
	switch {
	case w.err != nil:
		return w.err
	case err != nil:
		return fmt.Errorf("read body: %w", err)
	case w.left != 0:
		return objstore.ErrBody
	}
	return nil
}

// bodyWriter writes a body to its temporary file.
type bodyWriter struct {
	ctx  context.Context
	b    *Bucket
	t    *temp
	left int64
	err  error // why it stopped
}

// Write implements io.Writer.
func (w *bodyWriter) Write(p []byte) (n int, err error) {
	if w.left -= int64(len(p)); w.left < 0 {
		w.err = objstore.ErrBody
		return 0, w.err
	}
	for len(p) > 0 {
		if w.err = w.ctx.Err(); w.err != nil {
			return n, w.err
		}
		k, err := w.b.hooks.write(w.t.name, w.t.f, p[:min(len(p), writePiece)])
		n += k
		if err != nil {
			w.err = fmt.Errorf("write temporary file: %w", err)
			return n, w.err
		}
		p = p[k:]
	}
	return n, nil
}

// commit gives the temporary file the key's name, durably. The caller holds the
// key. From here on nothing is cancelled: the outcome has to be known.
func (b *Bucket) commit(key string, dir *handle, tmp *temp, opt objstore.PutOptions) (objstore.Info, error) {
	if !opt.IfAbsent {
		if err := b.beforeOverwrite(key, tmp, opt); err != nil {
			return objstore.Info{}, err
		}
	}
	b.keys.begin(key)
	name := tmp.rename
	if opt.IfAbsent {
		name = tmp.link
	}
	if err := name(dir, path.Base(key)); err != nil {
		b.keys.end(key, false)
		if errors.Is(err, iofs.ErrExist) && opt.IfAbsent {
			return objstore.Info{}, b.syncExisting(key)
		}
		if errors.Is(err, iofs.ErrNotExist) {
			b.forgetDirs()
		}
		return objstore.Info{}, fmt.Errorf("name the file: %w", err)
	}
	failpoint.Hit(failpoint.FSNamed)
	if err := b.syncDir(path.Dir(key), dir.f); err != nil {
		b.keys.end(key, true)
		return objstore.Info{}, fmt.Errorf("%w: %w", objstore.ErrAmbiguous, err)
	}
	failpoint.Hit(failpoint.FSDirSynced)
	info, err := b.landed(key, tmp)
	b.keys.end(key, false)
	if err != nil {
		b.forgetDirs()
		return objstore.Info{}, fmt.Errorf("%w: look for the new file: %w", objstore.ErrAmbiguous, err)
	}
	return info, nil
}

// beforeOverwrite checks what the file is about to replace.
func (b *Bucket) beforeOverwrite(key string, tmp *temp, opt objstore.PutOptions) error {
	old, err := b.root.Lstat(key)
	exists := err == nil && old.Mode().IsRegular()
	switch {
	case err != nil && !errors.Is(err, iofs.ErrNotExist):
		return err
	case opt.IfMatch != "" && (!exists || infoOf(key, old).ETag != opt.IfMatch):
		return objstore.ErrChanged
	case exists:
		return b.advanceTime(tmp, old.ModTime())
	}
	return nil
}

// advanceTime makes sure that the new file's modification time, and so its
// ETag, differs from the one it replaces, whatever the clock did. It fsyncs again
// in the rare case that it had to change something.
func (b *Bucket) advanceTime(tmp *temp, old time.Time) error {
	fi, err := tmp.f.Stat()
	if err != nil {
		return err
	}
	if fi.ModTime().After(old) {
		return nil
	}
	if err := tmp.setTime(old.Add(1)); err != nil {
		return fmt.Errorf("set file time: %w", err)
	}
	if err := b.hooks.syncFile(tmp.name, tmp.f); err != nil {
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
	failpoint.Hit(failpoint.FSExists)
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
	failpoint.Hit(failpoint.FSDeleted)
	return b.syncDir(path.Dir(key), df)
}
