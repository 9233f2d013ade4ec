// Package conformance is a suite of SMTP conversations for servers: what is sent
// in which packets, what must come back, and what must have been kept. It knows
// nothing of any server and talks to one by its address, so that it is of use to
// the authors of all of them. Command smtpconform runs it.
//
// The conversations are text, in conversations/*.smtp. [Load] reads them, [Run]
// holds them with a [Target] and returns one [Result] for each.
//
// # The format
//
// A line that begins with "#" is a comment. A conversation begins with its name,
// and says what it rests on:
//
//	== name of the conversation
//	cite RFC 5321 §4.1.1.1       the paragraph, always
//	must                         or should, or choice: see below
//	needs PIPELINING SMTPUTF8    extensions without which it makes no sense;
//	                             also submission, unknown: what the Target has to have
//	why …                        why we do it so, where the text leaves it open
//
// Its steps follow:
//
//	greet                        220, EHLO, 250
//	mail                         greet, and a transaction with one recipient
//	data                         mail, and DATA up to 354
//	message                      data, and a header with its empty line
//	secure                       greet, STARTTLS, the handshake, and EHLO again
//	login                        secure, and AUTH PLAIN
//	> text                       text and CRLF; lines that follow each other are one packet
//	>> "go string" 10 "another"  these octets, the first ten times over
//	chunk "go string" LAST       a BDAT command with its octets
//	-- 20ms                      end of a packet, and a pause (10 ms if not said)
//	drip 1ms                     from here every octet is a packet, so far apart; drip 0 ends it
//	< 250 2.1.                   a reply whose code and text begin so
//	< 501,553                    or one of these codes; "5" is any that begins with it
//	< 250 | 5                    what is right, and what is allowed besides
//	has SIZE                     a line of the last reply has this keyword
//	hasnt AUTH                   none has
//	enhanced                     every line of the last reply has an enhanced status code of its class
//	quiet                        nothing is said for a moment
//	eof                          the server closes the connection, after a 421 perhaps
//	half                         we close our direction
//	drop                         we reset the connection
//	close                        we close both directions
//	tls                          a TLS handshake, without looking at the certificate
//	either                       from here there are several endings; the first is the right one
//	or that is done instead      another one, which the cited text allows
//
// An ending is chosen by its first steps: replies, eof or quiet, up to where we
// speak again. At the end of a
// conversation whose connection is still open QUIT is sent, and anything but 221
// in answer to it (a reply left over, say) is an error. Last of all stands what
// must have been kept:
//
//	stored 0,1                   so many messages
//	kept "go string" 10          the body of the last one, after its header
//	whole "go string"            or all of it
//
// Lines "| a | b" after the steps are a table: each row makes a conversation in
// which $1, $2 and so on are replaced, in its name as well.
//
// In what is sent {id} stands for a word that no other conversation has, {rcpt}
// and {rcpt2} to {rcpt100} for recipients, {from} for the sender, {domain} for the
// recipients' domain and {local} for the local part of {rcpt}, {unknown} for a
// recipient that does not exist, {relay} for one the server must not relay to,
// {helo} for our name, {user}, {password} and {plain} for a login.
//
// # Verdicts
//
// What a conversation rests on decides what it means when a server does
// something else. With "must" that [Fails]: the cited text demands it, or the
// mail of others is at stake. With "should" and "choice" it [Differs]: the text
// recommends it, or leaves it open and the suite states what Holdfast does. An
// ending behind "or" differs as well.
package conformance
