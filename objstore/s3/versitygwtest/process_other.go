//go:build !linux

package versitygwtest

import "os/exec"

// dieWithParent cannot be had here: a killed test leaves its server behind.
func dieWithParent(*exec.Cmd) {}

// awaitStop cannot be had here: a frozen server may answer for a moment yet.
func awaitStop(int) {}
