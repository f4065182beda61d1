package sim

import (
	"context"
	"encoding/json"
	"sort"
)

// rpcState says in which state of the framework a method may be called.
type rpcState uint8

const (
	stateStartup rpcState = 1 << iota
	stateRuntime
)

// method is one JSON-RPC method. run is called on the application thread (with
// process.mu held) and answers there or later.
type method struct {
	states rpcState
	run    func(c *call)
}

// call is one request being served by a process.
type call struct {
	ctx    context.Context
	p      *process
	name   string
	params json.RawMessage
	reply  func(rpcReply)
}

// ok answers with a result.
func (c *call) ok(result any) { c.reply(rpcReply{result: result}) }

// fail answers with an error of the given code and message.
func (c *call) fail(code int, message string) {
	c.reply(rpcReply{err: &rpcError{code, message}})
}

// failErrno answers as SPDK's send_error_response(rc, spdk_strerror(-rc)).
func (c *call) failErrno(rc errno) { c.fail(int(rc), rc.strerror()) }

// done answers true, or with the code given and the error's text.
func (c *call) done(rc errno, code int) {
	if rc == 0 {
		c.ok(true)
		return
	}
	c.fail(code, rc.strerror())
}

// The ways in which handlers answer parameters that don't decode. SPDK's modules
// don't agree on one.
var (
	badParamsInternal = rpcError{codeInternalError, "spdk_json_decode_object failed"}
	badParamsInvalid  = rpcError{codeInvalidParams, "Invalid parameters"}
	badParamsParse    = rpcError{codeParseError, "spdk_json_decode_object failed"}
	badParamsDecode   = rpcError{codeInvalidParams, "spdk_json_decode_object failed"}
	badParamsEINVAL   = rpcError{codeInvalidParams, "Invalid argument"}
)

// decode reads the parameters into dst; when they don't decode it answers with
// bad and returns false. Absent parameters don't decode either.
func (c *call) decode(dst any, bad rpcError) bool {
	return c.decodeWith(dst, bad, false)
}

// decodeRelaxed is decode for handlers that ignore unknown members.
func (c *call) decodeRelaxed(dst any, bad rpcError) bool {
	return c.decodeWith(dst, bad, true)
}

// decodeIfAny is decode for handlers that may be called without parameters.
func (c *call) decodeIfAny(dst any, bad rpcError) bool {
	return c.params == nil || c.decodeWith(dst, bad, false)
}

func (c *call) decodeWith(dst any, bad rpcError, relaxed bool) bool {
	err := errDecode
	if c.params != nil {
		err = decodeObject(c.params, dst, relaxed)
	}
	if err != nil {
		c.p.node.log.V(4).Info("RPC parameters refused", "method", c.name, "reason", err.Error())
		c.fail(bad.code, bad.message)
		return false
	}
	return true
}

// methods is every method by name. It is filled once and only read afterwards.
var methods map[string]method

func init() { methods = buildMethods() }

func buildMethods() map[string]method {
	m := map[string]method{}
	for _, table := range []map[string]method{
		frameworkMethods(), bdevMethods(), lvolMethods(), lvolSnapshotMethods(),
		raidMethods(), keyringMethods(), nvmeMethods(), nvmfMethods(), nvmfSubsystemMethods(), nvmfListenerMethods(),
	} {
		for name, mt := range table {
			m[name] = mt
		}
	}
	return m
}

func runtime(run func(*call)) method { return method{stateRuntime, run} }

func startup(run func(*call)) method { return method{stateStartup, run} }

func anyTime(run func(*call)) method { return method{stateRuntime | stateStartup, run} }

// methodNames is the names of all methods callable in the given states, sorted.
func methodNames(states rpcState) []string {
	var names []string
	for name, m := range methods {
		if m.states&states == states {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// serveRPC is the process's rpcHandler: faults and latency first, then the
// method on the application thread.
func (p *process) serveRPC(ctx context.Context, req rpcRequest, reply func(rpcReply)) {
	if p.node.cfg.Network.serveSim(p.node, &p.node.ops, req, reply) || p.gate.Wait(ctx) != nil {
		return
	}
	p.node.countCall(req.method)
	fault := p.node.rpcFaults.match(req.method)
	reply = p.gated(reply)
	run := func() {
		if !fault.before(p, reply) {
			p.dispatch(ctx, req, fault.after(p, reply))
		}
	}
	if d := p.node.cfg.RPCLatency + fault.delay(); d > 0 {
		p.after(d, run)
		return
	}
	run()
}

// gated holds an answer back while the process is stopped.
func (p *process) gated(reply func(rpcReply)) func(rpcReply) {
	return func(r rpcReply) {
		if !p.gate.Hung() {
			reply(r)
			return
		}
		p.spawn(func(pctx context.Context) {
			if p.gate.Wait(pctx) == nil {
				reply(r)
			}
		})
	}
}

func (p *process) dispatch(ctx context.Context, req rpcRequest, reply func(rpcReply)) {
	c := &call{ctx: ctx, p: p, name: req.method, params: req.params, reply: reply}
	m, ok := methods[req.method]
	if !ok {
		c.fail(codeMethodNotFound, "Method not found")
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state&m.states == 0 {
		if p.state == stateStartup {
			c.fail(codeInvalidState, "Method may only be called after framework is initialized using framework_start_init RPC.")
		} else {
			c.fail(codeInvalidState, "Method may only be called before framework is initialized. Use --wait-for-rpc command line "+
				"parameter and then issue this RPC before the framework_start_init RPC.")
		}
		return
	}
	m.run(c)
}
