package imapgwtest

import (
	"testing"

	"holdfast/imapgw"
)

func TestMem(t *testing.T) {
	Run(t, func(*testing.T) imapgw.Backend {
		b := New()
		b.AddAccount(suiteUser, suitePassword)
		return b
	})
}
