package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/delivery/smtpc/smtptest"
)

// letter is one message of the story.
type letter struct {
	from    string
	to      []string
	subject string
	bytes   []byte
	id      string        // what the 250 called it
	sent    time.Time     // when the final dot was
	took    time.Duration // from then to the 250
}

// write makes a letter. The text may hold anything but a line of its own that
// is a dot.
func write(from string, to []string, subject, text string, more ...string) *letter {
	_, bare := names(from)
	head := []string{
		"From: " + from, "To: " + strings.Join(to, ", "), "Subject: " + subject,
		"Date: " + time.Now().Format(time.RFC1123Z),
		fmt.Sprintf("Message-ID: <%d.%d@%s>", time.Now().UnixNano(), os.Getpid(), bare[strings.IndexByte(bare, '@')+1:]),
	}
	head = append(head, more...)
	body := strings.Join(head, "\r\n") + "\r\n\r\n" + strings.ReplaceAll(text, "\n", "\r\n") + "\r\n"
	l := &letter{from: bare, subject: subject, bytes: []byte(body)}
	for _, t := range to {
		_, addr := names(t)
		l.to = append(l.to, addr)
	}
	return l
}

// names splits "Name <address>".
func names(s string) (name, addr string) {
	name, addr, ok := strings.Cut(s, " <")
	if !ok {
		return "", s
	}
	return name, strings.TrimSuffix(addr, ">")
}

// mailTimeout bounds one SMTP conversation.
const mailTimeout = 20 * time.Second

// send posts the letter over SMTP and notes the 250; with a password, as a user
// who submits.
func (l *letter) send(ctx context.Context, addr, password string) error {
	conn, err := (&net.Dialer{Timeout: mailTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(mailTimeout)); err != nil {
		return err
	}
	c, err := smtp.NewClient(conn, "127.0.0.1")
	if err != nil {
		return err
	}
	if err := c.Hello("sender.example"); err != nil {
		return err
	}
	if password != "" {
		if err := c.Auth(smtp.PlainAuth("", l.from, password, "127.0.0.1")); err != nil {
			return err
		}
	}
	if err := c.Mail(l.from); err != nil {
		return err
	}
	for _, to := range l.to {
		if err := c.Rcpt(to); err != nil {
			return err
		}
	}
	if err := l.data(c); err != nil {
		return err
	}
	return c.Quit()
}

// data sends the message. It speaks for itself because net/smtp does not hand
// over what the server says in its 250.
func (l *letter) data(c *smtp.Client) error {
	if err := c.Text.PrintfLine("DATA"); err != nil {
		return err
	}
	if _, _, err := c.Text.ReadResponse(354); err != nil {
		return err
	}
	w := c.Text.DotWriter()
	if _, err := w.Write(l.bytes); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	l.sent = time.Now()
	_, text, err := c.Text.ReadResponse(250)
	if err != nil {
		return err
	}
	l.took = time.Since(l.sent)
	words := strings.Fields(text)
	if len(words) == 0 {
		return errors.New("the 250 names no message")
	}
	l.id = words[len(words)-1]
	return nil
}

// arrivedAt returns how many times the letter is at a server for a recipient,
// byte for byte below one Received field.
func (l *letter) arrivedAt(s *smtptest.Server, rcpt string) (n int) {
	for _, tx := range s.Transactions() {
		rest, ok := cutReceived(string(tx.Body))
		if ok && rest == string(l.bytes) && slices.ContainsFunc(tx.Recipients, func(r smtptest.Recipient) bool { return r.To == rcpt }) {
			n++
		}
	}
	return n
}

// readAs says whether a message read over IMAP is this letter, byte for byte
// below one Received field.
func (l *letter) readAs(body string) bool {
	rest, ok := cutReceived(body)
	return ok && rest == string(l.bytes)
}

// cutReceived takes one Received field off the top.
func cutReceived(message string) (rest string, ok bool) {
	if !strings.HasPrefix(message, "Received:") {
		return message, false
	}
	for at := 0; ; {
		end := strings.Index(message[at:], "\r\n")
		if end < 0 {
			return message, false
		}
		at += end + 2
		if at == len(message) || message[at] != ' ' && message[at] != '\t' {
			return message[at:], true
		}
	}
}

// trace is a word to look for where nothing may be readable.
type trace struct {
	word  string
	forms []string
}

// traces returns what the words look like plain, in capitals, in base64 at each
// alignment, and in UTF-16.
func traces(words ...string) (out []trace) {
	for _, word := range words {
		t := trace{word: word, forms: []string{word, strings.ToLower(word), strings.ToUpper(word)}}
		for shift := range 3 {
			// Only the characters that depend on nothing but the word.
			text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), word...))
			t.forms = append(t.forms, text[(shift*8+5)/6:(shift+len(word))*8/6])
		}
		var wide strings.Builder
		for i := range len(word) {
			wide.WriteByte(word[i])
			wide.WriteByte(0)
		}
		out = append(out, trace{word, append(t.forms, wide.String())})
	}
	return out
}

// searched is what a look through files found.
type searched struct {
	files int
	bytes int64
	found []string // "word in path"
}

// searchFiles looks for traces in the names and contents of all files below the
// roots. A file that goes away meanwhile is nothing to find.
func searchFiles(ts []trace, roots ...string) (out searched, err error) {
	look := func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		out.files++
		out.bytes += int64(len(b))
		text := path + "\n" + string(b)
		for _, t := range ts {
			if slices.ContainsFunc(t.forms, func(f string) bool { return strings.Contains(text, f) }) {
				out.found = append(out.found, t.word+" in "+path)
			}
		}
		return nil
	}
	for _, root := range roots {
		if err := filepath.WalkDir(root, look); err != nil {
			return out, err
		}
	}
	return out, nil
}
