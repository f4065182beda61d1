package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// The simulator's own methods. They answer on every node's socket, also while its
// process is stopped, and on a control socket (ServeControl). "node" names the node
// meant, by default the one asked. A node that kills or restarts itself hangs up
// instead of answering.
//
//	sim_nodes            -                                            names and whether each runs
//	sim_start            node                                         start the process
//	sim_kill             node                                         SIGKILL
//	sim_restart          node                                         kill and start
//	sim_hang             node, hung                                   SIGSTOP, SIGCONT
//	sim_link             from, to, cut, delay_ms, bytes_per_second    one direction of a link
//	sim_cut              a, b, cut                                    both directions
//	sim_disk_fault       node, pool, read_error, write_error, hang, delay_ms
//	sim_limit_pool       node, pool, clusters                         out of space; -1 lifts it
//	sim_rpc_fault        node, kind, method, call, delay_ms, code, message
//	sim_clear_rpc_faults node
//	sim_calls            node                                         calls per method
type simMethod func(c *control) (any, error)

// control is a call of one of the simulator's methods.
type control struct {
	w      *Network
	self   *Node // nil on a control socket
	params json.RawMessage
	hangup bool // the answer is the end of the connection
}

var simTable map[string]simMethod

func init() {
	simTable = map[string]simMethod{
		"sim_nodes":            (*control).nodes,
		"sim_start":            (*control).start,
		"sim_kill":             (*control).kill,
		"sim_restart":          (*control).restart,
		"sim_hang":             (*control).hang,
		"sim_link":             (*control).link,
		"sim_cut":              (*control).cut,
		"sim_disk_fault":       (*control).diskFault,
		"sim_limit_pool":       (*control).limitPool,
		"sim_rpc_fault":        (*control).rpcFault,
		"sim_clear_rpc_faults": (*control).clearRPCFaults,
		"sim_calls":            (*control).calls,
	}
}

// serveSim runs one of the simulator's methods in a goroutine of ops; false if it is
// none.
func (w *Network) serveSim(self *Node, ops *sync.WaitGroup, req rpcRequest, reply func(rpcReply)) bool {
	run, ok := simTable[req.method]
	if !ok {
		return false
	}
	ops.Go(func() {
		c := &control{w: w, self: self, params: req.params}
		result, err := run(c)
		switch {
		case c.hangup:
			reply(rpcReply{hangup: true})
		case err != nil:
			reply(rpcReply{err: &rpcError{codeInvalidParams, err.Error()}})
		default:
			reply(rpcReply{result: result})
		}
	})
	return true
}

// Control is a JSON-RPC socket that serves the simulator's own methods only, also
// while no node runs.
type Control struct {
	srv *rpcServer
	ops sync.WaitGroup
}

// ServeControl serves the network's nodes on a Unix socket.
func ServeControl(path string, w *Network) (*Control, error) {
	c := &Control{}
	srv, err := listenRPC(path, func(_ context.Context, req rpcRequest, reply func(rpcReply)) {
		if !w.serveSim(nil, &c.ops, req, reply) {
			reply(rpcReply{err: &rpcError{codeMethodNotFound, "Method not found"}})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("serve control: %w", err)
	}
	c.srv = srv
	return c, nil
}

// Close ends the socket and waits for calls under way.
func (c *Control) Close() {
	c.srv.close(true)
	c.ops.Wait()
}

// nodeRef are the parameters that name a node.
type nodeRef struct {
	Node string `json:"node"`
}

// decode reads the parameters, if any.
func (c *control) decode(dst any) error {
	if c.params == nil {
		return nil
	}
	return decodeObject(c.params, dst, false)
}

func (c *control) node(name string) (*Node, error) {
	if name == "" && c.self != nil {
		return c.self, nil
	}
	if n := c.w.Node(name); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("there is no node %q", name)
}

// onNode reads {"node"} and runs fn on it.
func (c *control) onNode(fn func(n *Node) (any, error)) (any, error) {
	var req nodeRef
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	n, err := c.node(req.Node)
	if err != nil {
		return nil, err
	}
	return fn(n)
}

func (c *control) nodes() (any, error) {
	list := []object{}
	for _, n := range c.w.all() {
		list = append(list, obj("name", n.Name(), "socket", n.Socket(), "running", n.Running()))
	}
	return list, nil
}

func (c *control) start() (any, error) {
	return c.onNode(func(n *Node) (any, error) { return true, n.Start() })
}

func (c *control) kill() (any, error) {
	return c.onNode(func(n *Node) (any, error) {
		c.hangup = n == c.self
		n.Kill()
		return true, nil
	})
}

func (c *control) restart() (any, error) {
	return c.onNode(func(n *Node) (any, error) {
		c.hangup = n == c.self
		return true, n.Restart()
	})
}

func (c *control) hang() (any, error) {
	var req struct {
		Node string `json:"node"`
		Hung bool   `json:"hung" rpc:"required"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	n, err := c.node(req.Node)
	if err != nil {
		return nil, err
	}
	n.Hang(req.Hung)
	return true, nil
}

func (c *control) link() (any, error) {
	var req struct {
		From    string `json:"from" rpc:"required"`
		To      string `json:"to" rpc:"required"`
		Cut     bool   `json:"cut"`
		DelayMS uint64 `json:"delay_ms"`
		Rate    int64  `json:"bytes_per_second"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	c.w.SetLink(req.From, req.To, LinkFault{Cut: req.Cut, Delay: time.Duration(req.DelayMS) * time.Millisecond, BytesPerSecond: req.Rate})
	return true, nil
}

func (c *control) cut() (any, error) {
	var req struct {
		A   string `json:"a" rpc:"required"`
		B   string `json:"b" rpc:"required"`
		Cut bool   `json:"cut" rpc:"required"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	c.w.Cut(req.A, req.B, req.Cut)
	return true, nil
}

func (c *control) diskFault() (any, error) {
	var req struct {
		Node       string `json:"node"`
		Pool       string `json:"pool" rpc:"required"`
		ReadError  bool   `json:"read_error"`
		WriteError bool   `json:"write_error"`
		Hang       bool   `json:"hang"`
		DelayMS    uint64 `json:"delay_ms"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	n, err := c.node(req.Node)
	if err != nil {
		return nil, err
	}
	return true, n.SetDiskFault(req.Pool, DiskFault{ReadError: req.ReadError, WriteError: req.WriteError, Hang: req.Hang,
		Delay: time.Duration(req.DelayMS) * time.Millisecond})
}

func (c *control) limitPool() (any, error) {
	var req struct {
		Node     string `json:"node"`
		Pool     string `json:"pool" rpc:"required"`
		Clusters int    `json:"clusters" rpc:"required"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	n, err := c.node(req.Node)
	if err != nil {
		return nil, err
	}
	return true, n.LimitPool(req.Pool, req.Clusters)
}

func (c *control) rpcFault() (any, error) {
	var req struct {
		Node    string `json:"node"`
		Kind    string `json:"kind" rpc:"required" enum:"fail_before,fail_after,hangup_before,hangup_after,kill_before,kill_after,no_answer,not_json,delay"`
		Method  string `json:"method"`
		Call    int    `json:"call"`
		DelayMS uint64 `json:"delay_ms"`
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	n, err := c.node(req.Node)
	if err != nil {
		return nil, err
	}
	if req.Call < 0 {
		return nil, errors.New("call counts from 1; 0 is every call")
	}
	n.AddRPCFault(RPCFault{Kind: RPCFaultKind(req.Kind), Method: req.Method, Call: req.Call,
		Delay: time.Duration(req.DelayMS) * time.Millisecond, Code: req.Code, Message: req.Message})
	return true, nil
}

func (c *control) clearRPCFaults() (any, error) {
	return c.onNode(func(n *Node) (any, error) {
		n.ClearRPCFaults()
		return true, nil
	})
}

func (c *control) calls() (any, error) {
	return c.onNode(func(n *Node) (any, error) { return n.Calls(), nil })
}
