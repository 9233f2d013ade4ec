// Package sim runs whole worlds of Holdfast deterministically: the production
// assembly (node.New with node.Seams) inside testing/synctest, with a simulated
// bucket, key service, network and clocks, and with actors around it. One seed
// is one world, and gives the same trace every time.
//
// # How it is made deterministic
//
// synctest makes time deterministic, not the order in which goroutines run. So
// everything whose order matters parks on one [Bus] under a stable label: every
// call through a seam (bucket, keys, listen, accept, dial, read), and in
// the product every entry into a queue shared between goroutines (package
// internal/turn). The driver waits until the bubble has settled, chooses one of
// what is parked with the seed's generator, over the sorted labels, and releases
// it. When nothing is parked, time goes on to the next timer. Random bytes come
// from testing/cryptotest.SetGlobalRandom.
//
// docs/decisions/0017-simulation.md tells what else it takes, and what was
// rejected.
//
// # Looking into a seed
//
//	go test ./sim -run 'TestSeed$' -seed N -v -dump trace.txt -logs
//
// -may adds to the trace what might have been released at each step, -twice
// compares with a second run, -draws finds goroutines that draw random bytes in
// one step.
//
// # Ages of a world
//
// The nodes start and learn of the domains; a storm passes, in which all that the
// seed's plan ([PlanOf]) names goes wrong; then no fault strikes any more, the
// inhabitants finish what they have in hand, and every queue must empty. A few
// lone messages and commands must be answered at once. At last a node is built
// from nothing, and the judges compare.
//
// # Fault model
//
// Bucket: see the type bucket in this package; key service: a call fails;
// network: see the type network; nodes are killed at any step, with their local
// database as of the last commit, or some commits older, or lost, and stopped
// and started; any goroutine or call that waits for its turn may be held up for
// some seconds; a node may start with a wrong clock. Senders, primaries, users
// and the administrator: package world.
//
// # For those who write actors (sim/world) and checkers (sim/check)
//
// They do not import this package; it imports them. What they get:
//
//   - ctx: carries the actor's place on the bus. Goroutines that an actor starts
//     get turn.Named(ctx, "name"), with names that differ while they live. All
//     end when ctx does.
//   - dial, listen: func(ctx, network, addr string) as of net.Dialer.DialContext
//     and net.ListenConfig.Listen. Connections are real enough: deadlines, reads
//     cut into random pieces, half-read data after a close, resets. Dial parks; so
//     does every Read, once there is something to read. A Write does not: it is
//     under way until its reader's turn. Nodes listen at n1:25, n1:587, n1:143 and so on; a primary
//     listens wherever the domains file says, such as mx.example.org:25.
//   - rng: *rand.Rand of math/rand/v2, one for each actor, seeded by world and
//     name. Never the global functions of math/rand, never crypto/rand.
//   - time: package time; the bubble's clock. It begins on 2000-01-01.
//
// Rules, so that a seed repeats:
//
//   - An actor touches what it shares with other actors (histories, counters)
//     only after its own Read, Write or Dial has returned, or after
//     turn.Take(ctx, "what"). After time.Sleep, a timer or a channel wake-up
//     comes a turn.Take.
//   - No mutex is held over dial, listen, Read, Write or turn.Take.
//   - No order of a map gets out.
//   - No select with two cases that can be ready at the same moment and whose
//     order matters.
//   - A label (name of the goroutine and what it does) is unique among what is
//     parked at a time, and holds no addresses of memory and no wall clock.
//
// Checkers read the bucket as it is (an objstore.Bucket without faults that does
// not park), and the world calls them at rest, or between two steps when nothing
// runs.
package sim
