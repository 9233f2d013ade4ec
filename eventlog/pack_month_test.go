package eventlog

import (
	"testing"
	"testing/synctest"
	"time"

	"holdfast/event"
	"holdfast/objstore/fault"
)

// A month of one message a minute, packed as it goes, is read anew with fewer than
// 200 GETs, key pages and all.
func TestMonthIsRebuiltWithFewGets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDepot(t)
		minutes := 30 * 24 * 60
		if testing.Short() {
			minutes /= 15
		}
		body := []byte("Subject: a message a minute\r\n\r\nand its text\r\n")
		written := int64(0)
		for i := range minutes {
			time.Sleep(time.Minute)
			d.day = event.DayOf(d.Now()) + 30
			if _, err := d.Append(t.Context(), d.message(t, body)); err != nil {
				t.Fatal(err)
			}
			if i%720 == 719 {
				written += d.pack(t, 0).Bytes
			}
		}
		_, packed := d.count(t, "pack/")
		objects, total := d.count(t, "")
		if written > 5*packed {
			t.Errorf("%d bytes of packs were written for %d", written, packed)
		}
		time.Sleep(25 * time.Hour)
		d.pack(t, 0)
		gets, lists := d.bucket.Calls(fault.Get), d.bucket.Calls(fault.List)
		o := d.another(t)
		n := 0
		for _, err := range o.Read(t.Context(), 0, Cursor{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		gets, lists = d.bucket.Calls(fault.Get)-gets, d.bucket.Calls(fault.List)-lists
		t.Logf("%d GETs, %d LISTs; %d objects of %d bytes; %d bytes of packs written for %d", gets, lists, objects, total, written, packed)
		if n != minutes || gets >= 200 {
			t.Errorf("%d events of %d with %d GETs", n, minutes, gets)
		}
	})
}
