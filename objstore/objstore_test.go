package objstore

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidKey(t *testing.T) {
	for key, valid := range map[string]bool{
		"a": true, "log/00/00000000000000000001": true, "a.b-c_d/0": true, "..a": true, "a..": true, "...": true, "-": true,
		strings.Repeat("a", 255): true, strings.Repeat("a/", 255) + "aa": true,
		"": false, "/": false, "/a": false, "a/": false, "a//b": false, ".": false, "..": false, "a/./b": false, "a/../b": false,
		"A": false, "a b": false, "a\x00b": false, "ä": false, "a\\b": false, "a~": false, "a:b": false,
		strings.Repeat("a", 256): false, strings.Repeat("a/", 255) + "aaa": false,
	} {
		err := ValidKey(key)
		if (err == nil) != valid || err != nil && !errors.Is(err, ErrInvalidKey) {
			t.Errorf("ValidKey(%q) = %v, want valid: %t", key, err, valid)
		}
	}
}

// FuzzValidKey: whatever is valid names one file below a directory, in one way
// only.
func FuzzValidKey(f *testing.F) {
	for _, seed := range []string{"a/b", "a/../b", "/", "log/00/1", "..", "a\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if ValidKey(key) != nil {
			return
		}
		if path.Clean(key) != key || !filepath.IsLocal(key) || len(key) > MaxKeyLen || strings.ToLower(key) != key {
			t.Errorf("%q is valid", key)
		}
		for seg := range strings.SplitSeq(key, "/") {
			if len(seg) == 0 || len(seg) > maxSegmentLen {
				t.Errorf("%q has a segment of %d bytes", key, len(seg))
			}
		}
	})
}

func TestConditionsExcludeEachOther(t *testing.T) {
	for opt, ok := range map[PutOptions]bool{
		{}: true, {IfAbsent: true}: true, {IfMatch: "e"}: true, {IfAbsent: true, IfMatch: "e"}: false,
	} {
		if (opt.Validate() == nil) != ok {
			t.Errorf("%+v: %v", opt, opt.Validate())
		}
	}
}
