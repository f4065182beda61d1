package sim

import (
	"slices"
	"sync"
	"time"
)

// RPCFaultKind is what goes wrong with a JSON-RPC call.
type RPCFaultKind string

// Kinds of RPC faults.
const (
	// FailBefore answers with an error and does nothing.
	FailBefore RPCFaultKind = "fail_before"
	// FailAfter does what was asked and then answers with an error.
	FailAfter RPCFaultKind = "fail_after"
	// HangupBefore closes the connection and does nothing.
	HangupBefore RPCFaultKind = "hangup_before"
	// HangupAfter does what was asked and then closes the connection.
	HangupAfter RPCFaultKind = "hangup_after"
	// KillBefore kills the process instead of doing anything.
	KillBefore RPCFaultKind = "kill_before"
	// KillAfter does what was asked and then kills the process.
	KillAfter RPCFaultKind = "kill_after"
	// NoAnswer does what was asked and never answers.
	NoAnswer RPCFaultKind = "no_answer"
	// NotJSON does what was asked and answers with bytes that are not JSON.
	NotJSON RPCFaultKind = "not_json"
	// Delayed waits before it does what was asked.
	Delayed RPCFaultKind = "delay"
)

// RPCFault is a rule for calls of a node.
type RPCFault struct {
	Kind RPCFaultKind
	// Method is the method hit; "" is any.
	Method string
	// Call is which call of those that match counts, from 1 on, counted from when
	// the rule was made; 0 is all of them.
	Call int
	// Delay is for Delayed.
	Delay time.Duration
	// Code and Message are the error's for FailBefore and FailAfter; code 0 is -32603
	// "Internal error".
	Code    int
	Message string
}

// rpcFaults holds the rules of a node.
type rpcFaults struct {
	mu    sync.Mutex
	rules []*rpcRule
}

type rpcRule struct {
	RPCFault
	seen int
}

func newRPCFaults() *rpcFaults { return &rpcFaults{} }

// AddRPCFault makes a rule; remove takes it back. A rule for one call goes by
// itself when it has hit.
func (n *Node) AddRPCFault(f RPCFault) (remove func()) {
	r := &rpcRule{RPCFault: f}
	fs := n.rpcFaults
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.rules = append(fs.rules, r)
	return func() {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		fs.drop(r)
	}
}

// ClearRPCFaults takes every rule back.
func (n *Node) ClearRPCFaults() {
	n.rpcFaults.mu.Lock()
	defer n.rpcFaults.mu.Unlock()
	n.rpcFaults.rules = nil
}

func (fs *rpcFaults) drop(r *rpcRule) {
	fs.rules = slices.DeleteFunc(fs.rules, func(o *rpcRule) bool { return o == r })
}

// match is the first rule that hits a call of the method, nil if none does.
func (fs *rpcFaults) match(method string) *RPCFault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, r := range slices.Clone(fs.rules) {
		if r.Method != method && r.Method != "" {
			continue
		}
		r.seen++
		if r.Call == 0 {
			return &r.RPCFault
		}
		if r.Call == r.seen {
			fs.drop(r)
			return &r.RPCFault
		}
	}
	return nil
}

// delay is how long the call waits.
func (f *RPCFault) delay() time.Duration {
	if f == nil || f.Kind != Delayed {
		return 0
	}
	return f.Delay
}

func (f *RPCFault) reply() rpcReply {
	if f.Code == 0 {
		return rpcReply{err: &rpcError{codeInternalError, "Internal error"}}
	}
	return rpcReply{err: &rpcError{f.Code, f.Message}}
}

// before answers a call that must have no effect; it says whether it did.
func (f *RPCFault) before(p *process, reply func(rpcReply)) bool {
	switch {
	case f == nil:
		return false
	case f.Kind == FailBefore:
		reply(f.reply())
		return true
	case f.Kind == HangupBefore:
		reply(rpcReply{hangup: true})
		return true
	case f.Kind == KillBefore:
		p.node.crash(p, "fault before "+f.Method)
		return true
	default:
		return false
	}
}

// after changes the answer of a call that had its effect.
func (f *RPCFault) after(p *process, reply func(rpcReply)) func(rpcReply) {
	if f == nil {
		return reply
	}
	return func(r rpcReply) {
		switch f.Kind {
		case FailAfter:
			r = f.reply()
		case HangupAfter:
			r = rpcReply{hangup: true}
		case KillAfter:
			p.node.crash(p, "fault after "+f.Method)
			return
		case NoAnswer:
			r = rpcReply{none: true}
		case NotJSON:
			r = rpcReply{raw: []byte("<html>502 Bad Gateway</html>\n")}
		}
		reply(r)
	}
}
