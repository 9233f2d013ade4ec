// Package interop holds no code, only tests: other people's mail programs send
// to the server of package smtpd.
package interop
