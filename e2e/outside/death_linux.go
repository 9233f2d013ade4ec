package outside

import "syscall"

// dieWithParent makes a node end with the program that started it, however that
// ends: a test that runs into its time limit leaves nothing behind.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
