package message

import (
	"strconv"
	"strings"
	"time"
)

// FormatDate returns t as the value of a Date field (RFC 5322 §3.3).
func FormatDate(t time.Time) string { return t.Format("Mon, 02 Jan 2006 15:04:05 -0700") }

// zoneHours returns the offset of the named zones of RFC 5322 §4.3 and of a few
// that are met often. All others, and the military ones, mean that nothing is
// known of the zone and count as UTC.
func zoneHours(name string) int {
	switch strings.ToUpper(name) {
	case "EDT":
		return -4
	case "EST", "CDT":
		return -5
	case "CST", "MDT":
		return -6
	case "MST", "PDT":
		return -7
	case "PST":
		return -8
	case "CET", "MET", "BST":
		return 1
	case "CEST", "MEST", "EET":
		return 2
	case "JST":
		return 9
	}
	return 0
}

// ParseDate reads the value of a Date field: RFC 5322 with its obsolete forms,
// and what else is met, such as the form of asctime and ISO 8601. ok tells
// whether there is a date in it. A date without a time that can be read is
// midnight; one without a zone is UTC.
func ParseDate(raw string) (t time.Time, ok bool) {
	l := lexer{b: []byte(raw)}
	var words []string
	const maxWords = 16
	for l.skipSpace() == more && len(words) < maxWords {
		if l.at(',') || l.at(';') {
			l.i++
			continue
		}
		start := l.i
		for !l.atEnd() && !isSpace(l.b[l.i]) && !l.at('(') && !l.at(',') && !l.at(';') {
			l.i++
		}
		if l.i == start {
			l.i++
			continue
		}
		word := string(l.b[start:l.i])
		// White space may stand around the colons of a time (RFC 5322 §4.3).
		if n := len(words); n > 0 && (word[0] == ':' || strings.HasSuffix(words[n-1], ":")) {
			words[n-1] += word
			continue
		}
		words = append(words, word)
	}
	if len(words) > 0 {
		if t, ok := parseISO(words); ok {
			return t, true
		}
	}
	return dateOf(words)
}

func parseISO(words []string) (time.Time, bool) {
	s := words[0]
	if len(s) < 10 || s[4] != '-' || s[7] != '-' {
		return time.Time{}, false
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05-0700", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	d, err := time.Parse("2006-01-02", s)
	if err != nil {
		return time.Time{}, false
	}
	c := clock{zone: time.UTC}
	for _, w := range words[1:] {
		c.read(w)
	}
	return c.on(d.Year(), d.Month(), d.Day())
}

// clock is the time of day and the zone of a date.
type clock struct {
	hour, minute, second int
	seen                 bool
	zone                 *time.Location
	zoneSeen             bool
	pm, am               bool
}

// read takes word as a part of the time and reports whether it is one.
func (c *clock) read(word string) bool {
	switch {
	case !c.seen && strings.Count(word, ":") >= 1 || !c.seen && strings.Count(word, ".") == 2:
		return c.readTime(word)
	case strings.EqualFold(word, "pm"):
		c.pm = true
		return true
	case strings.EqualFold(word, "am"):
		c.am = true
		return true
	case c.seen && !c.zoneSeen && (word[0] == '+' || word[0] == '-'):
		return c.readOffset(word)
	case c.seen && !c.zoneSeen && isZone(word):
		c.zone = time.FixedZone("", zoneHours(word)*3600)
		c.zoneSeen = true
		return true
	}
	return false
}

// isZone reports whether word looks like the name of a zone rather than that
// of a day or month.
func isZone(word string) bool {
	return isLetters(word) && (word == strings.ToUpper(word) || len(word) < 3 ||
		strings.EqualFold(word, "gmt") || strings.EqualFold(word, "utc")) && monthOf(word) == 0
}

func (c *clock) readTime(word string) bool {
	// A zone may hang on the time: 10:00:00+0200.
	if i := strings.IndexAny(word, "+-"); i > 0 {
		c.readOffset(word[i:])
		word = word[:i]
	}
	parts := strings.FieldsFunc(word, func(r rune) bool { return r == ':' || r == '.' })
	if len(parts) < 2 {
		return false
	}
	var n [3]int
	for i, p := range parts[:min(len(parts), 3)] {
		v, err := strconv.Atoi(strings.TrimRight(p, "Zz"))
		if err != nil || v < 0 || v > 60 {
			return false
		}
		n[i] = v
	}
	c.hour, c.minute, c.second, c.seen = n[0], n[1], n[2], true
	return true
}

func (c *clock) readOffset(word string) bool {
	digits := strings.ReplaceAll(word[1:], ":", "")
	v, err := strconv.Atoi(digits)
	if err != nil || v < 0 || len(digits) > 4 {
		return false
	}
	if len(digits) <= 2 {
		v *= 100
	}
	seconds := (v/100*60 + v%100) * 60
	if word[0] == '-' {
		seconds = -seconds
	}
	if seconds > 24*3600 || seconds < -24*3600 {
		seconds = 0
	}
	c.zone, c.zoneSeen = time.FixedZone("", seconds), true
	return true
}

// on returns the time on a day.
func (c *clock) on(year int, month time.Month, day int) (time.Time, bool) {
	if c.pm && c.hour < 12 {
		c.hour += 12
	}
	if c.am && c.hour == 12 {
		c.hour = 0
	}
	if c.hour > 24 || c.minute > 59 {
		c.hour, c.minute, c.second = 0, 0, 0 // the day still stands
	}
	if day < 1 || day > 31 || year < 1 || year > 9999 {
		return time.Time{}, false
	}
	return time.Date(year, month, day, c.hour, c.minute, c.second, 0, c.zone), true
}

// dateOf finds the month among the words; day and year are the numbers
// around it.
func dateOf(words []string) (time.Time, bool) {
	c := clock{zone: time.UTC}
	month, numbers := time.Month(0), []int(nil)
	digits := 0 // of the year
	for _, w := range words {
		if (len(numbers) >= 2 || c.seen || strings.Contains(w, ":")) && c.read(w) {
			continue
		}
		for _, piece := range strings.FieldsFunc(w, func(r rune) bool { return r == '-' || r == '/' }) {
			if m := monthOf(piece); m != 0 && month == 0 {
				month = m
				continue
			}
			piece = strings.TrimRight(piece, ".")
			if v, err := strconv.Atoi(piece); err == nil && v >= 0 && len(numbers) < 2 {
				numbers = append(numbers, v)
				digits = len(piece)
			}
		}
	}
	if month == 0 || len(numbers) < 2 {
		return time.Time{}, false
	}
	day, year := numbers[0], numbers[1]
	if day > 31 {
		day, year = year, day
		digits = 4
	}
	// RFC 5322 §4.3.
	switch {
	case digits == 2 && year < 50:
		year += 2000
	case digits <= 3 && year < 1000:
		year += 1900
	}
	return c.on(year, month, day)
}

func monthOf(word string) time.Month {
	if len(word) < 3 || !isLetters(word) {
		return 0
	}
	const names = "janfebmaraprmayjunjulaugsepoctnovdec"
	i := strings.Index(names, strings.ToLower(word[:3]))
	if i < 0 || i%3 != 0 {
		return 0
	}
	return time.Month(i/3 + 1)
}

func isLetters(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; c < 'a' || c > 'z' {
			return false
		}
	}
	return s != ""
}
