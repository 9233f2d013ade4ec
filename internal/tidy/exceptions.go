package tidy

// An Exception lets one finding pass: that of Rule in File about Name.
type Exception struct {
	Rule   string
	File   string
	Name   string
	Reason string // why the code is better so than inside the rule
}

// Exceptions are the findings that have to stay. Each needs a reason that would
// convince the next reader; most findings are better mended.
func Exceptions() []Exception {
	const once = "is read from the environment once, in a program built for crashing and in no other: a point in the code has nobody to hand it over"
	return []Exception{
		{Rule: "state", File: "internal/disk/recorder.go", Name: "recorder", Reason: once},
		{Rule: "state", File: "internal/sabotage/on.go", Name: "plot", Reason: "is there only in programs that are broken on purpose; a place in the code has nobody to hand it over"},
		{Rule: "state", File: "internal/failpoint/on.go", Name: "armed", Reason: once},
		{Rule: "state", File: "internal/loopback/loopback.go", Name: "next", Reason: "the ports of a machine are one for all tests of a process"},
	}
}
