// Package smtpd is an SMTP server: RFC 5321 with the extensions PIPELINING
// (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531),
// CHUNKING (RFC 3030, without BINARYMIME), ENHANCEDSTATUSCODES (RFC 2034),
// STARTTLS (RFC 3207), DSN (RFC 3461) and, for submission, AUTH (RFC 4954)
// with PLAIN and LOGIN.
//
// The package knows the protocol and nothing else. What an address means, who
// may log in and where a message is kept is decided by a [Backend]; the server
// hands it exactly the message's bytes and says 250 only after the Backend has
// returned from [Transaction.Data] without an error.
//
// # Promises
//
//   - A message the sender did not send to its end never looks complete: the
//     body reader ends in io.EOF only after CRLF "." CRLF, or after the last
//     byte of the chunk marked LAST. In every other case it ends in an error
//     that wraps io.ErrUnexpectedEOF.
//   - Bytes of a body are never read as commands. A body is drained to its end
//     before it is refused, and where its end cannot be known the connection
//     is closed.
//   - Only CRLF "." CRLF ends DATA. A lone dot beside any other combination of
//     CR and LF ("\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r" and their kin) makes
//     the message refused with 554 5.6.0, whole, and the connection closed; a
//     sender that took it for the end and waits is told so after ten seconds.
//     All other bytes, bare CR, bare LF, NUL and lines of any length among
//     them, are handed on as they came.
//   - A command ends in CRLF. A command ended by a bare LF is answered 500 and
//     the connection is closed; a bare CR or a NUL inside a command is
//     answered 500.
//   - What goes wrong on our side is a temporary refusal, always. A permanent
//     one follows only from an error kind of this package that says so, and no
//     reply contains the text of an error.
//
// # Leniency
//
// Where strictness protects nobody and would lose mail, the server takes what
// real senders send: white space after "FROM:" and "TO:" and just inside the
// angle brackets, an address without brackets, parameters after HELO, dots anywhere in an unquoted local part, local parts up to 256 octets,
// underscores in domains.
package smtpd
