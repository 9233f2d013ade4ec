package world

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// errCut is the inhabitant's own doing: the line was cut as planned.
var errCut = errors.New("line cut on purpose")

// wire is an SMTP client's connection.
type wire struct {
	conn     net.Conn
	r        *bufio.Reader
	patience time.Duration
}

func newWire(c net.Conn, patience time.Duration) *wire {
	return &wire{conn: c, r: bufio.NewReaderSize(c, 4096), patience: patience}
}

// send writes bytes in the given pieces.
func (w *wire) send(pieces ...[]byte) error {
	for _, p := range pieces {
		if err := w.conn.SetWriteDeadline(time.Now().Add(w.patience)); err != nil {
			return err
		}
		if _, err := w.conn.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// reply reads one answer.
func (w *wire) reply() (code int, text string, err error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(w.patience)); err != nil {
		return 0, "", err
	}
	for {
		line, err := w.r.ReadString('\n')
		if err != nil {
			return 0, "", err
		}
		line = strings.TrimRight(line, "\r\n")
		if len(line) < 3 {
			return 0, "", fmt.Errorf("reply %q is too short", line)
		}
		if code, err = strconv.Atoi(line[:3]); err != nil {
			return 0, "", fmt.Errorf("reply %q has no code", line)
		}
		text += line + "\n"
		if len(line) == 3 || line[3] != '-' {
			return code, strings.TrimSpace(text), nil
		}
	}
}

// ask sends a command and reads the answer to it.
func (w *wire) ask(format string, args ...any) (int, error) {
	if err := w.send(fmt.Appendf(nil, format+"\r\n", args...)); err != nil {
		return 0, err
	}
	code, _, err := w.reply()
	return code, err
}

// peek waits until something has come, and reads nothing of it.
func (w *wire) peek() error {
	if err := w.conn.SetReadDeadline(time.Now().Add(w.patience)); err != nil {
		return err
	}
	_, err := w.r.Peek(1)
	return err
}
