// Package turn lets a simulation decide in which order goroutines go on.
//
// testing/synctest makes time repeatable, not the order in which goroutines run
// that became ready at the same moment. Code whose effects depend on that order
// therefore asks for its turn with [Take]: before it enters a queue shared
// between goroutines, after a wake-up that others get too, and when a timer has
// fired. Outside a simulation nobody has an opinion, and Take returns at once.
//
// The order travels in the context, and so does the name under which a
// goroutine asks. A name is the same in every run of one seed.
package turn

import "context"

// Order blocks the goroutine called who until it may do what. It is called by
// any goroutine, and never with a mutex held.
type Order func(who, what string)

type key struct{}

type place struct {
	order Order
	who   string
}

// With returns a context whose goroutines are ordered by order.
func With(ctx context.Context, order Order, who string) context.Context {
	return context.WithValue(ctx, key{}, &place{order, who})
}

// Named returns a context for a goroutine, whose name is added to that of its
// maker. Goroutines that may ask at the same time need names that differ.
func Named(ctx context.Context, name string) context.Context {
	p, ok := ctx.Value(key{}).(*place)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, key{}, &place{p.order, p.who + "/" + name})
}

// Take returns when it is the goroutine's turn to do what. No mutex may be held:
// whoever has the turn may need it.
func Take(ctx context.Context, what string) {
	if p, ok := ctx.Value(key{}).(*place); ok {
		p.order(p.who, what)
	}
}

// Who returns the goroutine's name, or "" outside a simulation.
func Who(ctx context.Context) string {
	if p, ok := ctx.Value(key{}).(*place); ok {
		return p.who
	}
	return ""
}

// Like returns ctx for a goroutine that belongs to the simulation which from
// belongs to.
func Like(ctx, from context.Context) context.Context {
	if p, ok := from.Value(key{}).(*place); ok {
		return context.WithValue(ctx, key{}, p)
	}
	return ctx
}
