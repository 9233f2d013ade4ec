package main

import (
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	tests := []struct {
		name                        string
		ours, postfix, sink, factor float64
		met                         bool
		target                      string
	}{
		{"a multiple of Postfix", 800, 100, 5000, 8, true, "8 × Postfix = 800/s"},
		{"just below it", 799, 100, 5000, 8, false, "8 × Postfix = 800/s"},
		{"three quarters of the sink", 3000, 1000, 4000, 8, true, "3/4 smtp-sink (4000/s) = 3000/s"},
		{"just below them", 2999, 1000, 4000, 8, false, "3/4 smtp-sink (4000/s) = 3000/s"},
		{"nothing measured", 0, 100, 4000, 8, false, "8 × Postfix = 800/s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := compare(tt.ours, tt.postfix, tt.sink, tt.factor)
			if got.met != tt.met || got.target != tt.target {
				t.Errorf("met %v with target %q, want %v with %q", got.met, got.target, tt.met, tt.target)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	got, err := choose([]string{"drain", "accept-fs"})
	if err != nil || len(got) != 2 || got[0].name != "drain" || got[1].name != "accept-fs" {
		t.Errorf("chosen %v, %v", got, err)
	}
	if _, err := choose([]string{"drian"}); err == nil {
		t.Error("a row that does not exist is chosen")
	}
}

func TestCheckRows(t *testing.T) {
	if err := checkRows(`{"id":"0011","rcpt":["a"]}` + "\n"); err != nil {
		t.Error(err)
	}
	for _, nothing := range []string{"", "\n", "{}\n", "no rows\n"} {
		if err := checkRows(nothing); err == nil {
			t.Errorf("%q counts as a row", nothing)
		}
	}
}

func TestPasswordHashIsPHC(t *testing.T) {
	if h := passwordHash(); !strings.HasPrefix(h, "$argon2id$v=19$m=19456,t=2,p=1$") || strings.Count(h, "$") != 5 {
		t.Errorf("hash is %q", h)
	}
}
