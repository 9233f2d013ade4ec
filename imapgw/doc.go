// Package imapgw shows users' mailboxes over IMAP (RFC 3501, RFC 9051) to any
// mail client. It is thin: the protocol on one side, [Backend] on the other. The
// wire is that of the go-imap library, which this package keeps to itself; how
// mailboxes work is the backend's, and package imapgwtest tells whether a backend
// does it right.
//
// A message's bytes are served as they are stored, by the offsets that package
// message computed when it came in; nothing is ever parsed and written again.
//
// Each session has a view of its mailbox: the messages the client was told of,
// in the order of their sequence numbers. The backend's changes go into the view
// as they are taken. A message that somebody else expunged stays in the view
// until the protocol allows to say so (RFC 9051 §7.5.1), so a sequence number
// always means what the client thinks it means.
//
// Some things are the library's and cannot be mended from here:
//
//   - CONDSTORE, QRESYNC, ID, QUOTA, SORT, THREAD and COMPRESS cannot be offered.
//   - ENVELOPE shows the date in one form whatever stood in the Date field, and
//     NIL when it cannot be read; text that is not ASCII as encoded words; "" as
//     NIL. BODYSTRUCTURE shows parameters in alphabetical order, and no MD5.
//   - A partial BINARY answer has no offset, and a section that does not exist is
//     empty instead of NIL.
//   - SEARCH forgets SMALLER when another key about sizes or dates follows it.
//   - A command line is at most 48 KiB, and a literal in it, APPEND apart, 4 KiB.
//   - A search key or a date that cannot be read is answered NO [SERVERBUG].
//
// What the library cannot do, find the end of a command that it has refused in
// the middle, is done below it, so that the lines of a message which is on its
// way as a literal are never taken for commands.
package imapgw
