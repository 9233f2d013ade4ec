package imapgw_test

import (
	"bufio"
	"bytes"
	"strconv"
	"testing"
	"time"

	"holdfast/imapgw/imapgwtest"
)

const manyMessages = 100_000

// manyInInbox fills an INBOX with small messages.
func manyInInbox(a *imapgwtest.Account, n int) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		a.Deliver([]byte("Subject: message "+strconv.Itoa(i)+"\r\n\r\nbody\r\n"), at)
	}
}

// BenchmarkFetchFlags is what Thunderbird does when a folder is opened, over
// loopback TCP, from command to tagged answer.
func BenchmarkFetchFlags(b *testing.B) {
	f := start(b, nil)
	manyInInbox(f.alice, manyMessages)
	c := f.login(b)
	c.ok("SELECT INBOX")
	c.br = bufio.NewReaderSize(c.c, 1<<20)
	b.ResetTimer()
	for b.Loop() {
		c.send("y UID FETCH 1:* (FLAGS)\r\n")
		_ = c.c.SetReadDeadline(time.Now().Add(time.Minute))
		n := 0
		for {
			line, err := c.br.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if bytes.HasPrefix(line, []byte("y OK")) {
				break
			}
			n++
		}
		if n != manyMessages {
			b.Fatalf("%d lines", n)
		}
	}
}

func BenchmarkSelect(b *testing.B) {
	f := start(b, nil)
	manyInInbox(f.alice, manyMessages)
	c := f.login(b)
	for b.Loop() {
		c.ok("SELECT INBOX")
	}
}

func BenchmarkSearchUnseen(b *testing.B) {
	f := start(b, nil)
	manyInInbox(f.alice, manyMessages)
	c := f.login(b)
	c.ok("SELECT INBOX")
	for b.Loop() {
		c.ok("UID SEARCH RETURN (COUNT) UNSEEN NOT DELETED")
	}
}

func BenchmarkSearchSubject(b *testing.B) {
	f := start(b, nil)
	manyInInbox(f.alice, manyMessages)
	c := f.login(b)
	c.ok("SELECT INBOX")
	for b.Loop() {
		c.ok("UID SEARCH RETURN (COUNT) SUBJECT 99999")
	}
}

// BenchmarkAppend appends with a synchronising literal, as Python's imaplib
// does: without TCP_QUICKACK each takes 40 ms.
func BenchmarkAppend(b *testing.B) {
	f := start(b, nil)
	c := f.login(b)
	for b.Loop() {
		c.send("x APPEND Drafts {9}\r\n")
		if l := c.line(); l[0] != '+' {
			b.Fatal(l)
		}
		c.send("Subject: ")
		c.send("\r\n")
		if l := c.line(); l[:4] != "x OK" {
			b.Fatal(l)
		}
	}
}
