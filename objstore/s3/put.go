package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/minio/minio-go/v7"

	"holdfast/objstore"
)

// Put implements objstore.Bucket.
//
// Its error wraps objstore.ErrAmbiguous when the request may have left this
// machine and no answer that settles it came back: the connection broke, the
// context ended, the server was silent for too long or answered 408 or 5xx.
// Answers 4xx, 501 and 507 (storage full), and connections that could not be
// made, are definite.
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, opt objstore.PutOptions) (objstore.Info, error) {
	info, err := b.put(ctx, key, body, size, opt)
	if err != nil {
		return objstore.Info{}, fmt.Errorf("s3 put: %w", err)
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
	digest, err := measure(ctx, body, size)
	if err != nil {
		return objstore.Info{}, err
	}
	o := minio.PutObjectOptions{
		ContentType:      "application/octet-stream",
		DisableMultipart: true, // A condition holds for one request.
		// The digest of the whole body is signed instead of one per chunk.
		DisableContentSha256: true,
	}
	if opt.IfAbsent {
		o.SetMatchETagExcept("*")
	}
	if opt.IfMatch != "" {
		o.SetMatchETag(opt.IfMatch)
	}
	ctx, x := withExchange(ctx)
	upload := &uploadBody{r: io.LimitReader(body, size)}
	defer upload.take()
	up, err := b.core.PutObject(ctx, b.name, b.prefix+key, upload, size, "", digest, o)
	if err != nil {
		return objstore.Info{}, judgePut(err, x.sent.Load(), opt)
	}
	if up.ETag == "" {
		// Nothing could ever be swapped against it.
		return objstore.Info{}, fmt.Errorf("%w: the server confirmed without an ETag", objstore.ErrAmbiguous)
	}
	return objstore.Info{Key: key, Size: size, ETag: up.ETag, Modified: x.serverTime()}, nil
}

var hashBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// measure checks the body's size, returns its SHA-256 in hexadecimal and leaves
// the body at its start.
func measure(ctx context.Context, body io.ReadSeeker, size int64) (string, error) {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("rewind body: %w", err)
	}
	buf := hashBuffers.Get().(*[64 << 10]byte)
	defer hashBuffers.Put(buf)
	h := sha256.New()
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := body.Read(buf[:])
		total += int64(n)
		h.Write(buf[:n])
		if err == io.EOF || total > size {
			break
		}
		if err != nil {
			return "", fmt.Errorf("read body: %w", err)
		}
	}
	if total != size {
		return "", objstore.ErrBody
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("rewind body: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// judgePut turns what a PUT came to into what the caller must know: did it take
// effect, or not, or can nobody say.
func judgePut(err error, sent bool, opt objstore.PutOptions) error {
	status := statusOf(err)
	conditional := opt.IfAbsent || opt.IfMatch != ""
	switch {
	case status == 0 && !sent:
		return away(err)
	case status == 0:
		return fmt.Errorf("%w: %w", objstore.ErrAmbiguous, err)
	case status == http.StatusPreconditionFailed && conditional,
		status == http.StatusConflict && conditional && !isLayoutConflict(err):
		// Some servers answer 409 to those who race, for either condition.
		return fmt.Errorf("%w (HTTP status %d)", unmet(opt), status)
	case status == http.StatusNotFound && opt.IfMatch != "" && codeOf(err) == minio.NoSuchKey:
		return fmt.Errorf("%w: there is no value", objstore.ErrChanged)
	case status == http.StatusRequestTimeout, status >= 500 &&
		status != http.StatusInsufficientStorage && status != http.StatusNotImplemented:
		return fmt.Errorf("%w: HTTP status %d: %w", objstore.ErrAmbiguous, status, err)
	}
	return fmt.Errorf("HTTP status %d: %w", status, err)
}

func unmet(opt objstore.PutOptions) error {
	if opt.IfAbsent {
		return objstore.ErrExists
	}
	return objstore.ErrChanged
}

// isLayoutConflict recognizes a conflict that stems from one key being the
// directory of another, on servers that keep objects as files.
func isLayoutConflict(err error) bool {
	switch codeOf(err) {
	case "ObjectParentIsFile", "ExistingObjectIsDirectory", "XMinioParentIsObject", "XMinioObjectExistsAsDirectory":
		return true
	}
	return false
}

// away adds ErrUnavailable to an error that may pass by itself: there was no
// answer, or one that says so.
func away(err error) error {
	switch status := statusOf(err); {
	case status == 0, status == http.StatusRequestTimeout, status == http.StatusTooManyRequests,
		status >= 500 && status != http.StatusNotImplemented && status != http.StatusInsufficientStorage:
		return fmt.Errorf("%w: %w", objstore.ErrUnavailable, err)
	}
	return err
}

// statusOf returns the HTTP status of an answer that is an error, or 0 if there
// was no answer.
func statusOf(err error) int {
	var r minio.ErrorResponse
	if errors.As(err, &r) {
		return r.StatusCode
	}
	return 0
}

func codeOf(err error) string {
	var r minio.ErrorResponse
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}
