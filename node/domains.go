package node

import (
	"fmt"

	"github.com/BurntSushi/toml"

	"holdfast/directory"
)

// LoadDomains reads a file of domains and users. Unknown keys are an error.
func LoadDomains(path string) (directory.File, error) {
	var f directory.File
	md, err := toml.DecodeFile(path, &f)
	if err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		return f, fmt.Errorf("%s: unknown key %s; remove it or check its spelling", path, unknown[0])
	}
	return f, nil
}
