package node

import (
	"context"
	"slices"
)

// SwitchSteps returns the names of the steps of a switch in their order.
func SwitchSteps() []string {
	var names []string
	for _, step := range switchSteps {
		names = append(names, step.name)
	}
	return names
}

// SwitchInOrder has every switch take the named steps, in that order, until restore is called. at is called before each and after the
// last, with how many were taken; an error of it cuts the switch short.
func SwitchInOrder(names []string, at func(taken int) error) (restore func()) {
	right := switchSteps
	var steps []switchStep
	boundary := func(taken int) switchStep {
		return switchStep{"boundary", func(*watcher, context.Context, *switching) error { return at(taken) }}
	}
	for i, name := range names {
		found := slices.IndexFunc(right, func(s switchStep) bool { return s.name == name })
		steps = append(steps, boundary(i), right[found])
	}
	steps = append(steps, boundary(len(names)))
	switchSteps = steps
	return func() { switchSteps = right }
}
