package eventlog

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/crypto"
	"holdfast/event"
	"holdfast/internal/failpoint"
	"holdfast/objstore"
)

const (
	formatKey     = "format"
	formatVersion = 1
	maxFormat     = 64 << 10
	maxPartitions = 64
)

// Errors of opening.
var (
	// ErrWrongKey says that the bucket was made with another root key.
	ErrWrongKey = errors.New("this bucket belongs to another root key; set keys.url to the right one, or restore it: holdfast keys restore FILE")
	// ErrNewer says that the bucket is of a format that this program does not know.
	ErrNewer = errors.New("the bucket is of a newer format than this program knows, or its object \"format\" is damaged; use the program that wrote it")
	// ErrMissing says that the key has been used but the bucket holds no log.
	ErrMissing = errors.New("the root key has been used, but there is no log here; check store.url and that the storage is mounted (to begin a new archive, use a new key file)")
)

// format says what a bucket is. docs/format.md draws it.
type format struct {
	Holdfast   int    `json:"holdfast"`
	Log        string `json:"log"`
	Partitions int    `json:"partitions"`
	Check      string `json:"check"`
	URL        string `json:"url"`
	Created    string `json:"created"`
	MAC        string `json:"mac"`

	id   event.LogID
	etag string
}

// Exists reports whether the bucket holds a log.
func Exists(ctx context.Context, b objstore.Bucket) (bool, error) {
	_, _, err := objstore.ReadAll(ctx, b, formatKey, maxFormat)
	if errors.Is(err, objstore.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func openFormat(ctx context.Context, opt Options) (*format, error) {
	f, err := readFormat(ctx, opt.Bucket, opt.Keys)
	if !errors.Is(err, objstore.ErrNotExist) {
		return f, err
	}
	if !opt.MayCreate || opt.Inspect {
		return nil, ErrMissing
	}
	if err := createFormat(ctx, opt); err != nil && !errors.Is(err, objstore.ErrExists) {
		return nil, fmt.Errorf("make a new log: %w", err)
	}
	return readFormat(ctx, opt.Bucket, opt.Keys)
}

func readFormat(ctx context.Context, b objstore.Bucket, keys crypto.KeyService) (*format, error) {
	raw, info, err := objstore.ReadAll(ctx, b, formatKey, maxFormat)
	if errors.Is(err, objstore.ErrTooLarge) {
		return nil, fmt.Errorf("the object %q: %w: %w", formatKey, err, ErrDamaged)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the bucket is: %w", err)
	}
	f := &format{etag: info.ETag}
	if err := json.Unmarshal(raw, f); err != nil {
		return nil, fmt.Errorf("the object %q: %w", formatKey, ErrDamaged)
	}
	if f.Holdfast != formatVersion {
		return nil, fmt.Errorf("format %d, this program reads %d: %w", f.Holdfast, formatVersion, ErrNewer)
	}
	check, err := keys.CheckValue(ctx)
	if err != nil {
		return nil, err
	}
	if f.Check != hex.EncodeToString(check[:]) {
		return nil, ErrWrongKey
	}
	mac, err := f.mac(ctx, keys)
	if err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(f.Log)
	if !hmac.Equal([]byte(mac), []byte(f.MAC)) || err != nil || len(id) != 16 ||
		f.Partitions < 1 || f.Partitions > maxPartitions {
		return nil, fmt.Errorf("the object %q: %w", formatKey, ErrDamaged)
	}
	f.id = event.LogID(id)
	return f, nil
}

func createFormat(ctx context.Context, opt Options) error {
	if opt.Partitions < 1 || opt.Partitions > maxPartitions {
		return fmt.Errorf("%d partitions, want 1 to %d", opt.Partitions, maxPartitions)
	}
	// A bucket with segments but without its format is damaged, not empty.
	for info, err := range opt.Bucket.List(ctx, "log/", "") {
		if err != nil {
			return err
		}
		return fmt.Errorf("there is %s, but no object %q: %w", info.Key, formatKey, ErrDamaged)
	}
	check, err := opt.Keys.CheckValue(ctx)
	if err != nil {
		return err
	}
	f := &format{
		Holdfast: formatVersion, Log: event.NewLogID().String(), Partitions: opt.Partitions,
		Check: hex.EncodeToString(check[:]), URL: opt.URL, Created: time.Now().Add(opt.Shift).UTC().Format(time.RFC3339),
	}
	failpoint.Hit(failpoint.FormatPut)
	if err := f.put(ctx, opt.Bucket, opt.Keys, objstore.PutOptions{IfAbsent: true}); err != nil {
		return err
	}
	failpoint.Hit(failpoint.FormatDurable)
	return nil
}

func (f *format) put(ctx context.Context, b objstore.Bucket, keys crypto.KeyService, po objstore.PutOptions) error {
	var err error
	if f.MAC, err = f.mac(ctx, keys); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	_, err = b.Put(ctx, formatKey, bytes.NewReader(raw), int64(len(raw)), po)
	return err
}

func (f *format) mac(ctx context.Context, keys crypto.KeyService) (string, error) {
	key, err := keys.LocalKey(ctx, "format")
	if err != nil {
		return "", err
	}
	m := hmac.New(sha256.New, key)
	m.Write([]byte(strings.Join([]string{
		strconv.Itoa(f.Holdfast), f.Log, strconv.Itoa(f.Partitions), f.Check, f.URL, f.Created,
	}, "\n")))
	return hex.EncodeToString(m.Sum(nil)), nil
}

// Adopt takes a bucket that was found under another URL into service under
// opt.URL. The log must be opened anew afterwards.
func Adopt(ctx context.Context, opt Options) (from string, err error) {
	f, err := readFormat(ctx, opt.Bucket, opt.Keys)
	if err != nil {
		return "", err
	}
	from = f.URL
	if from == opt.URL {
		return from, nil
	}
	f.URL = opt.URL
	if err := f.put(ctx, opt.Bucket, opt.Keys, objstore.PutOptions{IfMatch: f.etag}); err != nil {
		return "", fmt.Errorf("adopt: %w", err)
	}
	return from, nil
}
