package sim

// nvmfSetNSANAGroup waits for the namespace's I/O that executes, whether or not it then finds anything to change
// (lib/nvmf/nvmf_rpc.c, rpc_nvmf_subsystem_set_ns_ana_group).
func (c *call) nvmfSetNSANAGroup() {
	var req struct {
		NQN     string  `json:"nqn" rpc:"required"`
		NSID    uint32  `json:"nsid" rpc:"required"`
		Group   uint32  `json:"anagrpid" rpc:"required"`
		TgtName *string `json:"tgt_name"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	s.change(func() {
		if s.setNSANAGroup(req.NSID, req.Group) != 0 {
			c.fail(codeInvalidParams, "Invalid parameters")
			return
		}
		c.ok(true)
	})
}

// setNSANAGroup runs from the queue.
func (s *subsystem) setNSANAGroup(nsid, group uint32) errno {
	if s.wire != nil {
		if err := s.wire.SetANAGroup(nsid, group); err != nil {
			return errINVAL
		}
	}
	rc := errINVAL
	s.n.p.locked(func() {
		if ns := s.nss[nsid]; ns != nil && group > 0 && group <= s.params.MaxNamespaces {
			ns.group, rc = group, 0
		}
	})
	return rc
}
