package message

import "bytes"

// maxBoundary is how much of a boundary is compared. RFC 2046 §5.1.1 allows
// 70 characters; a longer one is cut.
const maxBoundary = 80

// boundaryLine is how much of a line has to be kept to recognise a delimiter:
// "--", the boundary, "--" and a line end.
const boundaryLine = 2 + maxBoundary + 2 + 2

// boundary is the delimiter of an open multipart.
type boundary struct {
	text []byte
	// depth is the place of its multipart in the stack of open parts.
	depth int
}

// matchBoundary finds the open multipart that line delimits. It returns its
// place in open, or -1, and whether line is a closing delimiter.
//
// RFC 2046 §5.1.2 has the boundary compared with the beginning of the line,
// innermost first; since senders use boundaries that begin with each other,
// the longest that matches wins. A whole line that is one of the boundaries
// is that, even if another could be meant.
func matchBoundary(open []boundary, line []byte) (found int, closing bool) {
	if len(line) < 2 || line[0] != '-' || line[1] != '-' {
		return -1, false
	}
	line = line[2:]
	name, closes := line, false
	if i := bytes.IndexByte(name, '\n'); i >= 0 {
		name = bytes.TrimSuffix(name[:i], []byte("\r"))
		closes = len(name) > 2 && bytes.HasSuffix(name, []byte("--"))
	}
	found = -1
	for i := len(open) - 1; i >= 0; i-- {
		b := open[i].text
		if !bytes.HasPrefix(name, b) || found >= 0 && len(open[found].text) >= len(b) {
			continue
		}
		found = i
		// "--b--" may close "b" or delimit "b--": the inner one wins.
		if len(b) == len(name) || closes && len(b) == len(name)-2 {
			break
		}
	}
	if found < 0 {
		return -1, false
	}
	return found, bytes.HasPrefix(line[len(open[found].text):], []byte("--"))
}
