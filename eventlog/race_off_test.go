//go:build !race

package eventlog

const underRace = false
