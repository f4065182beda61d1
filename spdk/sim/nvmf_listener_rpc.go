package sim

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

func nvmfListenerMethods() map[string]method {
	return map[string]method{
		"nvmf_subsystem_add_listener":           runtime((*call).nvmfAddListener),
		"nvmf_subsystem_remove_listener":        runtime((*call).nvmfRemoveListener),
		"nvmf_subsystem_listener_set_ana_state": runtime((*call).nvmfSetANAState),
		"nvmf_subsystem_get_listeners":          runtime((*call).nvmfGetListeners),
	}
}

// listenAddress is the parameter listen_address.
type listenAddress struct {
	Trtype  string `json:"trtype" rpc:"required"`
	Adrfam  string `json:"adrfam"`
	Traddr  string `json:"traddr" rpc:"required"`
	Trsvcid string `json:"trsvcid"`
}

// trid checks an address (rpc_listen_address_to_trid). IPv4 is what TCP means
// without an address family.
func (a *listenAddress) trid() (trid, bool) {
	t := trid{trtype: strings.ToUpper(a.Trtype), adrfam: adrfamName(a.Adrfam), traddr: a.Traddr, trsvcid: a.Trsvcid}
	if a.Adrfam == "" && t.trtype == "TCP" {
		t.adrfam = "IPv4"
	}
	return t, (a.Adrfam == "" || t.adrfam != "") && len(a.Traddr) <= maxTraddr && len(a.Trsvcid) <= maxTrsvcid
}

// addrTrid is a TCP address as SPDK shows it.
func addrTrid(addr string) trid {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	family := "IPv4"
	if strings.Contains(host, ":") {
		family = "IPv6"
	}
	return trid{trtype: "TCP", adrfam: family, traddr: host, trsvcid: port}
}

// anaStates are the states that the RPC knows.
var anaStates = map[string]nvmetcp.ANAState{"optimized": nvmetcp.ANAOptimized, "non_optimized": nvmetcp.ANANonOptimized,
	"inaccessible": nvmetcp.ANAInaccessible}

type listenerParams struct {
	NQN      string        `json:"nqn" rpc:"required"`
	TgtName  *string       `json:"tgt_name"`
	Address  listenAddress `json:"listen_address" rpc:"required"`
	Secure   bool          `json:"secure_channel"`
	ANAState string        `json:"ana_state" enum:"optimized,non_optimized,inaccessible"`
	SockImpl *string       `json:"sock_impl"`
	NUMA     int32         `json:"numa_id"`
}

func (c *call) nvmfAddListener() {
	req := listenerParams{ANAState: "optimized"}
	if !c.decodeRelaxed(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	t, ok := req.Address.trid()
	if !ok {
		c.fail(codeInvalidParams, "Invalid parameters")
		return
	}
	if s.anyHost && req.Secure {
		c.fail(codeInternalError, "Cannot establish secure channel, when 'allow_any_host' is set")
		return
	}
	s.change(func() {
		if err := s.addListener(t, anaStates[req.ANAState]); err != nil {
			c.p.node.log.Info("Adding a listener failed", "nqn", s.nqn, "address", joinAddr(t), "reason", err.Error())
			c.fail(codeInvalidParams, "Invalid parameters")
			return
		}
		c.ok(true)
	})
}

// addListener listens and lets hosts reach the subsystem there. It runs from the
// queue.
func (s *subsystem) addListener(t trid, state nvmetcp.ANAState) error {
	n := s.n
	var err error
	n.p.locked(func() {
		switch {
		case s.listener(t) != nil:
			err = errors.New("the listener exists")
		case n.tgt == nil || t.trtype != "TCP":
			err = fmt.Errorf("there is no %s transport", t.trtype)
		case net.ParseIP(t.traddr) == nil || t.trsvcid == "" || !digits(t.trsvcid):
			err = errors.New("not an IP address and port")
		default:
			err = n.tgt.Listen(joinAddr(t))
		}
	})
	if err != nil {
		return err
	}
	addr := joinAddr(t)
	if err = s.wire.AddListener(addr); err == nil && s.params.ANA {
		err = s.wire.SetANAState(addr, 0, state)
	}
	n.p.locked(func() {
		if err != nil {
			n.unlisten(t)
			return
		}
		s.lists = append([]*nvmfListener{{trid: t, state: state, groups: map[uint32]nvmetcp.ANAState{}}}, s.lists...)
	})
	return err
}

func (c *call) nvmfRemoveListener() {
	var req struct {
		NQN     string        `json:"nqn" rpc:"required"`
		TgtName *string       `json:"tgt_name"`
		Address listenAddress `json:"listen_address" rpc:"required"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	t, ok := req.Address.trid()
	if !ok {
		c.fail(codeInvalidParams, "Invalid parameters")
		return
	}
	s.change(func() {
		found := false
		c.p.locked(func() {
			for i, l := range s.lists {
				if l.trid == t {
					found = true
					s.lists = append(s.lists[:i:i], s.lists[i+1:]...)
					break
				}
			}
		})
		if !found {
			c.fail(codeInvalidParams, "Invalid parameters")
			return
		}
		s.wire.RemoveListener(joinAddr(t))
		c.p.locked(func() { s.n.unlisten(t) })
		c.ok(true)
	})
}

func (c *call) nvmfSetANAState() {
	var req struct {
		NQN      string        `json:"nqn" rpc:"required"`
		TgtName  *string       `json:"tgt_name"`
		Address  listenAddress `json:"listen_address" rpc:"required"`
		ANAState string        `json:"ana_state" rpc:"required" enum:"optimized,non_optimized,inaccessible"`
		Group    uint32        `json:"anagrpid"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	t, ok := req.Address.trid()
	if !ok {
		c.fail(codeInvalidParams, "Invalid parameters")
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	s.change(func() {
		rc := s.setANAState(t, anaStates[req.ANAState], req.Group)
		if rc != 0 {
			c.fail(codeInternalError, fmt.Sprintf("error setting ANA state: %d", int(rc)))
			return
		}
		c.ok(true)
	})
}

// setANAState runs from the queue.
func (s *subsystem) setANAState(t trid, state nvmetcp.ANAState, group uint32) errno {
	var l *nvmfListener
	s.n.p.locked(func() { l = s.listener(t) })
	if !s.params.ANA || group > s.params.MaxNamespaces || l == nil {
		return errINVAL
	}
	if err := s.wire.SetANAState(joinAddr(t), group, state); err != nil {
		return errINVAL
	}
	s.n.p.locked(func() {
		if group == 0 {
			l.state = state
			clear(l.groups)
		} else {
			l.groups[group] = state
		}
	})
	return 0
}

func (c *call) nvmfGetListeners() {
	var req subsystemRef
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	list := []object{}
	for _, l := range s.lists {
		o := obj("address", l.trid.json())
		if s.params.ANA {
			states := []object{}
			for g := uint32(1); g <= s.params.MaxNamespaces; g++ {
				states = append(states, obj("ana_group", g, "ana_state", strings.ReplaceAll(l.group(g).String(), "-", "_")))
			}
			o = o.with("ana_states", states)
		}
		list = append(list, o)
	}
	c.ok(list)
}
