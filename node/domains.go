package node

import (
	"fmt"
	"os"

	"github.com/BurntSushi/toml"

	"holdfast/directory"
)

// LoadDomains reads a file of domains and users. Unknown keys are an error.
func LoadDomains(path string) (directory.File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return directory.File{}, err
	}
	f, err := parseDomains(string(text))
	if err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func parseDomains(text string) (f directory.File, err error) {
	md, err := toml.Decode(text, &f)
	if err != nil {
		return f, err
	}
	if unknown := md.Undecoded(); len(unknown) > 0 {
		return f, fmt.Errorf("unknown key %s; remove it or check its spelling", unknown[0])
	}
	return f, nil
}
