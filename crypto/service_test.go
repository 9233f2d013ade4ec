package crypto_test

import (
	"path/filepath"
	"testing"

	"holdfast/crypto"
	"holdfast/crypto/keytest"
	"holdfast/event"
)

func TestRootIsAKeyService(t *testing.T) {
	const today event.Day = 20700
	t.Run("in memory", func(t *testing.T) {
		keytest.Test(t, func(t *testing.T) keytest.Service {
			return keytest.Service{KeyService: crypto.MemoryRoot(today), Today: today}
		})
	})
	t.Run("in a file, advanced", func(t *testing.T) {
		keytest.Test(t, func(t *testing.T) keytest.Service {
			root, err := crypto.CreateRoot(filepath.Join(t.TempDir(), "root.key"), today-10)
			if err != nil {
				t.Fatal(err)
			}
			if err := root.AdvanceTo(today); err != nil {
				t.Fatal(err)
			}
			return keytest.Service{KeyService: root, Today: today}
		})
	})
}
