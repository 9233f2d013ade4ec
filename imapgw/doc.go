// Package imapgw shows users' mailboxes over IMAP (RFC 3501, RFC 9051) to any
// mail client. It is thin: the protocol on one side, [Backend] on the other.
//
// A message's bytes are served as they are stored, by the offsets that package
// message computed when it came in; nothing is ever parsed and written again.
//
// Each session has a view of its mailbox: the messages the client was told of,
// in the order of their sequence numbers. The backend's changes go into the view
// as they are taken. A message that somebody else expunged stays in the view
// until the protocol allows to say so (RFC 9051 §7.5.1), so a sequence number
// always means what the client thinks it means.
package imapgw
