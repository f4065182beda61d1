package spdk

import (
	"context"
	"slices"
)

// Caller makes one JSON-RPC call and decodes its result into result, which is a pointer
// or nil where the result is of no interest. params is marshalled to a JSON object; nil
// leaves "params" out, which SPDK tells from an empty object.
//
// It returns *Error for an answer that is an error, an error that wraps ErrUnreachable
// when the request was surely not sent, and one that wraps ErrUnknownOutcome when it was
// sent and no answer came.
type Caller interface {
	Call(ctx context.Context, method string, params, result any) error
}

// NoParams is the parameter type of methods that are called without any.
type NoParams struct{}

// method is one SPDK method with the types of its parameters and of its result.
type method[P, R any] struct{ name string }

// registered describes one method to the tests and to the gateway's list.
type registered struct {
	name   string
	params any
}

// methods is every method that this package can call, in order of registration.
var methods []registered

func register[P, R any](name string) method[P, R] {
	var params P
	methods = append(methods, registered{name: name, params: params})
	return method[P, R]{name: name}
}

func (m method[P, R]) call(ctx context.Context, c Caller, params P) (R, error) {
	var result R
	var sent any = params
	if _, none := sent.(NoParams); none {
		sent = nil
	}
	err := c.Call(ctx, m.name, sent, &result)
	return result, err
}

// do makes a call whose result says nothing more than the absence of an error.
func (m method[P, R]) do(ctx context.Context, c Caller, params P) error {
	_, err := m.call(ctx, c, params)
	return err
}

// Methods returns the names of the SPDK methods that this package calls, sorted.
func Methods() []string {
	names := make([]string, 0, len(methods))
	for _, m := range methods {
		names = append(names, m.name)
	}
	slices.Sort(names)
	return names
}
