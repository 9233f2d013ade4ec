// Package message reads mail: RFC 5322 messages and their RFC 2045 parts, as
// strangers send them. It is pure (no clock, no network, no storage) and it
// never fails: every sequence of bytes is a message with some reading.
//
// The reading is done once, at reception, by an [Indexer] that is written the
// message as it streams by. Its [Index] keeps, for every part, where header
// and body lie in the exact bytes, and what IMAP's ENVELOPE and BODYSTRUCTURE
// say of them. From then on every section of the message is served by offset
// from the stored bytes; nothing is ever parsed and written again, so what
// was accepted comes out byte for byte however broken it is.
//
// Where a message follows the standards, so does the reading. Where it does
// not, the answer is the one that Dovecot 2.3 gives, because that is what mail
// clients have been tested against; TestDovecot compares the two and states
// the few deviations with their reasons.
//
// Beside the index the package undoes what senders wrap text in: encoded
// words ([DecodeHeader]), transfer encodings ([DecodeBody]), charsets and HTML
// ([TextReader]), and it reads fields, addresses and dates.
//
// Lines end in LF, with or without a CR before it, and both kinds may stand in
// one message. Offsets and lengths are always counted in the bytes as they are.
package message
