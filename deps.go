//go:build deps

// Package deps keeps libraries in go.mod while the packages that use them are
// being written.
package deps

import (
	_ "github.com/BurntSushi/toml"
	_ "github.com/ThreeDotsLabs/watermill"
	_ "github.com/dgraph-io/badger/v4"
	_ "github.com/emersion/go-imap/v2/imapserver"
	_ "github.com/emersion/go-sasl"
	_ "github.com/fxamacker/cbor/v2"
	_ "github.com/jhillyerd/enmime/v2"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/minio/minio-go/v7"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "golang.org/x/crypto/argon2"
	_ "golang.org/x/net/html"
	_ "golang.org/x/sync/errgroup"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
	_ "golang.org/x/text/encoding"
)
