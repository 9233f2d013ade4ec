package smtpd

import (
	"errors"
	"strconv"
)

// Reason says why something was refused, for metrics.
type Reason string

// The reasons an [Observer] may hear.
const (
	ReasonConnections Reason = "too-many-connections"
	ReasonSource      Reason = "source-not-allowed"
	ReasonSyntax      Reason = "syntax"
	ReasonSequence    Reason = "sequence"
	ReasonErrors      Reason = "too-many-errors"
	ReasonTimeout     Reason = "timeout"
	ReasonShutdown    Reason = "shutdown"
	ReasonRecipient   Reason = "unknown-recipient"
	ReasonRelay       Reason = "relay-denied"
	ReasonSender      Reason = "sender-not-yours"
	ReasonPolicy      Reason = "policy"
	ReasonTenant      Reason = "second-tenant"
	ReasonRecipients  Reason = "too-many-recipients"
	ReasonSize        Reason = "too-big"
	ReasonHops        Reason = "too-many-hops"
	ReasonThrottled   Reason = "throttled"
	ReasonTemporary   Reason = "temporary"
	ReasonIncomplete  Reason = "incomplete"
	ReasonBareLineEnd Reason = "bare-line-end"
	ReasonLogin       Reason = "login"
)

// reply is one answer of the server. Text never holds anything an error said.
type reply struct {
	code   int
	status string // enhanced status code (RFC 3463), empty where none belongs
	text   string
	reason Reason
	close  bool // the connection ends after this reply
}

// refusals maps the kinds of errors to their replies. This is the one place
// where a reply is chosen from an error.
var refusals = [...]struct {
	kind error
	reply
}{
	{ErrUnknownRecipient, reply{550, "5.1.1", "No such recipient here", ReasonRecipient, false}},
	{ErrRelayDenied, reply{550, "5.7.1", "Relaying denied", ReasonRelay, false}},
	{ErrSenderNotYours, reply{553, "5.7.1", "Sender address is not yours", ReasonSender, false}},
	{ErrPolicy, reply{550, "5.7.1", "Refused by policy", ReasonPolicy, false}},
	{ErrSecondTenant, reply{452, "4.5.3", "Send this recipient in a transaction of its own", ReasonTenant, false}},
	{ErrTooManyRecipients, reply{452, "4.5.3", "Too many recipients", ReasonRecipients, false}},
	{ErrTooBig, reply{552, "5.3.4", "Message is too big", ReasonSize, false}},
	{ErrTooManyHops, reply{554, "5.4.6", "Too many hops", ReasonHops, false}},
	{ErrThrottled, reply{421, "4.7.0", "Slow down and try again later", ReasonThrottled, true}},
	{ErrBareLineEnd, reply{554, "5.6.0", "Message holds a bare CR or LF beside a lone dot", ReasonBareLineEnd, true}},
}

// replyFor chooses the reply to an error from MAIL, RCPT, DATA or BDAT. What
// has no kind is temporary.
func replyFor(err error) reply {
	for i := range refusals {
		if errors.Is(err, refusals[i].kind) {
			return refusals[i].reply
		}
	}
	return reply{451, "4.3.0", "Temporary failure, try again later", ReasonTemporary, false}
}

// replyForLogin chooses the reply to an error from Auth (RFC 4954 §6).
func replyForLogin(err error) (reply, LoginResult) {
	switch {
	case errors.Is(err, ErrBadCredentials):
		return reply{535, "5.7.8", "Authentication credentials invalid", ReasonLogin, false}, LoginBad
	case errors.Is(err, ErrLoginUnavailable):
		return reply{454, "4.7.0", "Your mail server is working; please send through it", ReasonLogin, false}, LoginUnavailable
	case errors.Is(err, ErrThrottled):
		return replyFor(err), LoginError
	}
	return reply{454, "4.7.0", "Temporary authentication failure", ReasonTemporary, false}, LoginError
}

// replyForEnd chooses the last reply of a connection that ended by itself.
func replyForEnd(err error) reply {
	switch {
	case errors.Is(err, errTimeout):
		return reply{421, "4.4.2", "Timeout, closing connection", ReasonTimeout, true}
	case errors.Is(err, errShutdown):
		return reply{421, "4.3.2", "Service shutting down, try again later", ReasonShutdown, true}
	case errors.Is(err, errFlood):
		return reply{421, "4.7.0", "Too much input, closing connection", ReasonSyntax, true}
	}
	return reply{421, "4.4.2", "Connection broken", ReasonIncomplete, true}
}

// The fixed replies.
var (
	replyOK           = reply{250, "2.0.0", "OK", "", false}
	replyBye          = reply{221, "2.0.0", "Bye", "", true}
	replySenderOK     = reply{250, "2.1.0", "Sender OK", "", false}
	replyRcptOK       = reply{250, "2.1.5", "Recipient OK", "", false}
	replyGoAhead      = reply{354, "", "End data with <CR><LF>.<CR><LF>", "", false}
	replyReadyTLS     = reply{220, "2.0.0", "Ready to start TLS", "", false}
	replyVerify       = reply{252, "2.1.5", "Cannot verify, but will take mail and try", "", false}
	replyHelp         = reply{214, "2.0.0", "See RFC 5321", "", false}
	replyLoginOK      = reply{235, "2.7.0", "Authentication succeeded", "", false}
	replyBareLF       = reply{500, "5.5.2", "Command ended by a bare LF, closing connection", ReasonSyntax, true}
	replyBadByte      = reply{500, "5.5.2", "Control character in command", ReasonSyntax, false}
	replyTooLong      = reply{500, "5.5.2", "Line too long", ReasonSyntax, false}
	replyUnknown      = reply{500, "5.5.1", "Command unknown", ReasonSyntax, false}
	replyNotMail      = reply{421, "4.7.0", "This is not a mail conversation", ReasonSyntax, true}
	replyNotHere      = reply{502, "5.5.1", "Command not implemented", ReasonSyntax, false}
	replyNoArgument   = reply{501, "5.5.4", "No argument allowed", ReasonSyntax, false}
	replyNeedArgument = reply{501, "5.5.4", "Argument needed", ReasonSyntax, false}
	replyBadHelo      = reply{501, "5.5.4", "Domain or address literal needed", ReasonSyntax, false}
	replyHeloFirst    = reply{503, "5.5.1", "Say EHLO first", ReasonSequence, false}
	replyNested       = reply{503, "5.5.1", "A transaction is open already", ReasonSequence, false}
	replyMailFirst    = reply{503, "5.5.1", "MAIL needed first", ReasonSequence, false}
	replyRcptFirst    = reply{554, "5.5.1", "No valid recipients", ReasonSequence, false}
	replyMixed        = reply{503, "5.5.1", "Not between the chunks of a message", ReasonSequence, false}
	replyBadSender    = reply{501, "5.1.7", "Bad sender address syntax", ReasonSyntax, false}
	replyBadRcpt      = reply{501, "5.1.3", "Bad recipient address syntax", ReasonSyntax, false}
	replyMailSyntax   = reply{501, "5.5.4", "Syntax: MAIL FROM:<address>", ReasonSyntax, false}
	replyRcptSyntax   = reply{501, "5.5.4", "Syntax: RCPT TO:<address>", ReasonSyntax, false}
	replyNeedUTF8     = reply{553, "5.6.7", "Address needs SMTPUTF8", ReasonSyntax, false} // RFC 6531 §3.5
	replyBadParam     = reply{501, "5.5.4", "Bad parameter value", ReasonSyntax, false}
	replyUnknownParam = reply{555, "5.5.4", "Parameter not recognised", ReasonSyntax, false} // RFC 5321 §4.1.1.11
	replyBadChunk     = reply{501, "5.5.4", "Syntax: BDAT size [LAST], closing connection", ReasonSyntax, true}
	replyErrors       = reply{421, "4.7.0", "Too many errors, closing connection", ReasonErrors, true}
	replyCommands     = reply{421, "4.7.0", "Too many commands without a message, closing connection", ReasonErrors, true}
	replyTransactions = reply{421, "4.7.0", "Enough for one connection, open another", ReasonThrottled, true}
	replyConnections  = reply{421, "4.7.0", "Too many connections, try again later", ReasonConnections, true}
	replySource       = reply{554, "5.7.1", "No service for your address", ReasonSource, true} // RFC 5321 §3.1
	replyNeedLogin    = reply{530, "5.7.0", "Authentication required", ReasonLogin, false}     // RFC 4954 §6
	replyNeedTLS      = reply{538, "5.7.11", "Encryption required for authentication", ReasonLogin, false}
	replyLoggedIn     = reply{503, "5.5.1", "Logged in already", ReasonSequence, false}
	replyMechanism    = reply{504, "5.5.4", "Mechanism not supported", ReasonSyntax, false}
	replyAuthSyntax   = reply{501, "5.5.2", "Cannot decode response", ReasonSyntax, false}
	replyAuthCancel   = reply{501, "5.7.0", "Authentication cancelled", ReasonLogin, false}
	replyAuthLong     = reply{500, "5.5.6", "Authentication exchange line too long", ReasonSyntax, false} // RFC 4954 §4
	replyNoTLS        = reply{502, "5.5.1", "TLS not available", ReasonSequence, false}
	replyTLSActive    = reply{503, "5.5.1", "TLS active already", ReasonSequence, false}
)

// append writes the reply as one line.
func (r reply) append(out []byte) []byte {
	out = strconv.AppendInt(out, int64(r.code), 10)
	out = append(out, ' ')
	if r.status != "" {
		out = append(out, r.status...)
		out = append(out, ' ')
	}
	out = append(out, r.text...)
	return append(out, '\r', '\n')
}
