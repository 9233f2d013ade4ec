// Package crypto holds Holdfast's keys and everything that is sealed with them.
//
// There are four levels, each with one reason to exist.
//
//  1. The [Root]: a fixed secret, which certifies node keys and wraps the
//     secrets of tenants, and a ratchet K(day) that only moves forward. What was
//     sealed towards a day cannot be opened once the ratchet is past it, not
//     even from a copy of the bucket. It is reached through [KeyService], so
//     that it may live elsewhere than in a file.
//  2. The [DayPair] of one tenant and expiry day, derived from both secrets. Its
//     public half is published ahead ([DayPublic]), so that accepting mail needs
//     no secret.
//  3. The key page of one writer, tenant and expiry day: a tree of 2^20 leaves
//     ([NewPage]). The writer's [PageSealer] keeps only unused leaves and cannot
//     reopen what was sealed with the used ones; [OpenPage] needs the day pair.
//  4. Message keys, derived from a [Leaf] and a [Binding]. Small parts are sealed
//     whole ([Codec.SealSmall]), bodies in chunks ([Codec.NewStreamSealer]).
//
// Parts that outlive the mail are sealed under the tenant's state secret
// ([TenantKeys.SealState]). Values in a node's local database that are derived
// from mail are sealed with a [LocalSealer], which dies with its expiry day.
//
// Every type that holds a secret prints as "[secret]" through fmt, slog and the
// text and JSON encoders, and keeps its bytes behind a pointer, so that a struct
// which contains it does not print them either. No error of this package tells
// anything about a plaintext or a key.
//
// Only [Codec], [StreamSealer] and [StreamReader] keep buffers; a Codec and all
// that was made with it must stay inside one synctest bubble.
//
// The byte formats are drawn in docs/format-keys.md; testdata holds vectors for
// every level. Neither changes: a new format gets a new label and version.
package crypto
