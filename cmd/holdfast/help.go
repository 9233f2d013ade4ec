package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// groups says of the first words of commands with two what these are about.
var groups = map[string]string{
	"shadow": `The index of all mail that is kept: who sent what to whom, when, and what became of it.`,
	"hold": `A legal hold keeps mail past its day and from being erased until it is released: what
matches it, now and later. It has a name and a reason, which are put on record.
docs/retention.md says what a hold is on, and what not.`,
	"retention": `The work at the end of a day, by which mail ends whose time is over. It is done by
itself; holdfast status says how it stands, and docs/retention.md what happens.`,
	"tenant": `A tenant is one customer, with one or more domains: the file for holdfast apply names
it. What it has is kept apart from all others, and can be ended apart from them.`,
	"log": `The log is the only truth: all that happened stands in it, sealed and chained. These
commands read it, and take evidence from it that others can check.`,
	"keys": `The root key opens all mail. Without a backup of it the mail is lost with it; and a
backup opens what expired after it was made: make a new one now and then, and destroy
the older ones.`,
}

// groupOf returns the commands with this first of two words.
func groupOf(word string) []command {
	return slices.DeleteFunc(commands(), func(c command) bool { return word == "" || !strings.HasPrefix(c.name, word+" ") })
}

// help lists the commands, or explains those of a group.
func help(w io.Writer, word string) {
	list := groupOf(word)
	if len(list) > 0 {
		var names []string
		for _, c := range list {
			names = append(names, strings.TrimPrefix(c.name, word+" "))
		}
		fmt.Fprintf(w, "Usage: holdfast %s %s [-c FILE] ...\n\n%s\n\n", word, strings.Join(names, "|"), groups[word])
	} else {
		list = commands()
		fmt.Fprint(w, `Holdfast keeps an organisation's mail: it accepts it, seals it into object
storage before the sender hears 250, delivers it to the primary server, and lets
users read and send while that is down.

Usage: holdfast COMMAND [-c FILE] ...

`)
	}
	width := 16
	for _, c := range list {
		width = max(width, len(c.name))
	}
	for _, c := range list {
		fmt.Fprintf(w, "  %-*s %s\n", width, c.name, c.short)
	}
	fmt.Fprint(w, "\nholdfast COMMAND --help explains a command. Exit codes: 0 success, 1 failure, 2 wrong call.\n")
}
