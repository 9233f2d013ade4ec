package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/objstore"
)

const (
	// pageNames is how many names of one directory are held at a time. A
	// directory of more is read again for each further page, so memory is bounded
	// and a million names cost some sixteen passes.
	pageNames = 64 << 10
	// readNames is how many names are asked of the kernel at a time.
	readNames = 1024
)

// errStop ends a walk whose consumer wants no more.
var errStop = errors.New("consumer stopped")

// List implements objstore.Bucket. Keys whose Put is under way are waited for.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[objstore.Info, error] {
	return func(yield func(objstore.Info, error) bool) {
		w := walk{b: b, ctx: ctx, prefix: prefix, after: after, yield: yield, page: pageNames}
		// Everything with the prefix is below its last complete directory.
		dir := ""
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			dir = prefix[:i]
			if objstore.ValidKey(dir) != nil {
				return // No key starts with what is not a valid directory.
			}
		}
		if err := w.dir(dir); err != nil && err != errStop {
			yield(objstore.Info{}, fmt.Errorf("fs list: %w", err))
		}
	}
}

// walk is one List under way.
type walk struct {
	b             *Bucket
	ctx           context.Context
	prefix, after string
	yield         func(objstore.Info, error) bool
	page          int
}

// dir yields what is below the directory, in order of keys. A directory sorts
// as its name and a slash: "a-b" comes before "a/b", which comes before "a0".
func (w *walk) dir(dir string) error {
	base := ""
	if dir != "" {
		base = dir + "/"
	}
	for from := ""; ; {
		names, more, err := w.names(dir, base, from)
		if err != nil {
			return err
		}
		for _, name := range names {
			if sub, ok := strings.CutSuffix(name, "/"); ok {
				err = w.dir(base + sub)
			} else {
				err = w.file(base + name)
			}
			if err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		from = names[len(names)-1]
	}
}

// file yields one key, if it still exists.
func (w *walk) file(key string) error {
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		fi, err := w.b.root.Lstat(key)
		waited, werr := w.b.keys.settled(w.ctx, key)
		switch {
		case werr != nil:
			return werr
		case waited:
			continue
		case errors.Is(err, iofs.ErrNotExist):
			return nil
		case err != nil:
			return err
		}
		if fi.Mode().IsRegular() && !w.yield(infoOf(key, fi), nil) {
			return errStop
		}
		return nil
	}
}

// names returns the smallest names of dir behind from that can lead to wanted
// keys, sorted, and whether there are more. Names of directories end in a slash.
func (w *walk) names(dir, base, from string) (names []string, more bool, err error) {
	f, err := w.b.root.Open(path.Join(".", dir))
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	trim := func() {
		slices.Sort(names)
		if len(names) > w.page {
			names, more = names[:w.page], true
		}
	}
	for {
		if err := w.ctx.Err(); err != nil {
			return nil, false, err
		}
		entries, err := f.ReadDir(readNames)
		for _, e := range entries {
			name := e.Name()
			if e.IsDir() {
				name += "/"
			}
			if name > from && w.wanted(base, name) {
				names = append(names, name)
			}
		}
		if len(names) >= 2*w.page {
			trim()
		}
		if err == io.EOF {
			trim()
			return names, more, nil
		}
		if errors.Is(err, unix.ENOTDIR) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
}

// wanted reports whether name, in the directory that base names, is a wanted key
// or may hold some. Files that are not of the bucket's making are ignored.
func (w *walk) wanted(base, name string) bool {
	path := base + name
	if sub, ok := strings.CutSuffix(path, "/"); ok {
		matches := strings.HasPrefix(path, w.prefix) || strings.HasPrefix(w.prefix, path)
		// Everything below path is less than or equal to after if path itself
		// is and after does not point into it.
		passed := path <= w.after && !strings.HasPrefix(w.after, path)
		return matches && !passed && objstore.ValidKey(sub) == nil
	}
	return path > w.after && strings.HasPrefix(path, w.prefix) && objstore.ValidKey(path) == nil
}
