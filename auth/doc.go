// Package auth decides whether somebody who says who he is, is that.
//
// [Hash] and [Verify] keep passwords as argon2id in PHC form. [Authenticator]
// checks logins with them, and sees to it that checking them cannot be turned
// against the node (argon2 work is capped), nor against its users (guessing is
// slowed down and stopped), and that a client which opens five connections at
// once does not cost five computations.
//
// Whether somebody may come in at all, while the primary is up for instance, is
// not decided here: that question comes after the password matched.
package auth
