package nvmetcp

import "time"

// manage runs a fabrics or admin command; these wait while the subsystem is
// paused, keep-alives included.
func (a *association) manage(q *qpair, r *request, qid uint16) response {
	if r.cmd.opcode() == opAsyncEvent && qid == 0 {
		// Not counted as outstanding by SPDK, so no pause waits for it.
		return a.admin(r)
	}
	if err := a.sub.enter(q.queued); err != nil {
		return response{dropped: true}
	}
	defer a.sub.leave()
	if r.cmd.opcode() != opFabrics {
		return a.admin(r)
	}
	switch r.cmd.fctype() {
	case fctypePropertyGet, fctypePropertySet:
		if qid == 0 {
			return a.property(r)
		}
	}
	return failed(generic(SCInvalidOpcode))
}

// admin runs an admin command (nvmf_ctrlr_process_admin_cmd).
func (a *association) admin(r *request) response {
	op := r.cmd.opcode()
	controllerOnly := op == opAbort || op == opAsyncEvent || op == opKeepAlive
	if r.cmd.fused() || (controllerOnly && r.cmd.nsid() != 0) {
		return failed(generic(SCInvalidField))
	}
	a.mu.Lock()
	enabled := a.cc&ccEnable != 0
	a.mu.Unlock()
	if !enabled {
		return failed(generic(SCCommandSequence))
	}
	r.ensureData()
	switch op {
	case opIdentify:
		return a.identify(r)
	case opGetLogPage:
		return a.getLogPage(r)
	case opGetFeatures:
		return a.getFeatures(r)
	case opSetFeatures:
		return a.setFeatures(r)
	case opAsyncEvent:
		return a.asyncEvent(r)
	case opKeepAlive:
		a.mu.Lock()
		a.lastSeen = time.Now()
		a.mu.Unlock()
		return response{}
	case opAbort:
		if !a.sub.discovery {
			return a.abort(r)
		}
	}
	return failed(generic(SCInvalidOpcode))
}

// abort aborts a held asynchronous event request. A command that executes on a
// device is left alone: the bdevs that matter here (lvol, raid, aio) do not
// support aborting.
func (a *association) abort(r *request) response {
	sqid, cid := uint16(r.cmd.dword(10)), uint16(r.cmd.dword(10)>>16)
	if sqid == 0 && a.abortHeld(cid) {
		return response{}
	}
	return response{result: 1}
}

// getFeatures answers Get Features with the present values
// (nvmf_ctrlr_get_features).
func (a *association) getFeatures(r *request) response {
	fid, nsid := uint8(r.cmd.dword(10)), r.cmd.nsid()
	if nsid > a.sub.cfg.MaxNamespaces && nsid != globalNSID {
		return failed(generic(SCInvalidNamespace))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch fid {
	case featKeepAlive:
		return response{result: uint64(a.kato.Milliseconds())}
	case featAsyncEvent:
		return response{result: uint64(a.aec)}
	}
	if a.sub.discovery {
		return failed(generic(SCInvalidField))
	}
	switch fid {
	case featArbitration, featPowerMgmt, featTemperature, featErrorRecovery, featCoalescing, featAtomicity:
		return response{}
	case featWriteCache:
		return response{result: 1}
	case featQueues:
		return response{result: a.queueCount()}
	case featVector:
		return response{result: 1<<16 | uint64(r.cmd.dword(11)&0xffff)}
	case featHostID:
		if r.cmd.dword(11)&1 == 0 || len(r.bytes()) < len(a.hostID) {
			return failed(generic(SCInvalidField)) // fabrics use the extended identifier
		}
		copy(r.bytes(), a.hostID[:])
		return response{}
	case featHostBehavior:
		if len(r.bytes()) < 512 {
			return failed(generic(SCInvalidField))
		}
		return response{}
	default:
		return failed(generic(SCInvalidField))
	}
}

// queueCount is the number of I/O queues in both halves, counted from 0.
func (a *association) queueCount() uint64 {
	n := uint64(a.sub.t.cfg.MaxIOQueues - 1)
	return n<<16 | n
}

// setFeatures changes a feature (nvmf_ctrlr_set_features). Those without an
// effect on a target are accepted and keep their value.
func (a *association) setFeatures(r *request) response {
	fid, v, nsid := uint8(r.cmd.dword(10)), r.cmd.dword(11), r.cmd.nsid()
	if r.cmd.dword(10)>>31 != 0 {
		return failed(specific(SCFeatureNotSaveable))
	}
	if nsid > a.sub.cfg.MaxNamespaces && nsid != globalNSID {
		return failed(generic(SCInvalidNamespace))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch fid {
	case featKeepAlive:
		if v == 0 {
			return failed(generic(SCKeepAliveInvalid))
		}
		a.setKATO(a.sub.t.grantKATO(v))
		return response{}
	case featAsyncEvent:
		a.aec = v
		return response{}
	}
	if a.sub.discovery {
		return failed(generic(SCInvalidField))
	}
	switch fid {
	case featArbitration, featTemperature, featErrorRecovery, featAtomicity:
		return response{}
	case featWriteCache:
		if v&1 == 0 {
			return failed(specific(SCFeatureNotChangeable))
		}
		return response{}
	case featPowerMgmt:
		if v&0x1f != 0 {
			return failed(generic(SCInvalidField))
		}
		return response{}
	case featQueues:
		switch {
		case v&0xffff == 0xffff || v>>16 == 0xffff:
			return failed(generic(SCInvalidField))
		case len(a.ioQueues()) > 0:
			return failed(generic(SCCommandSequence))
		}
		return response{result: a.queueCount()}
	case featCoalescing:
		return failed(specific(SCFeatureNotChangeable))
	case featHostID:
		return failed(generic(SCCommandSequence))
	case featHostBehavior:
		if len(r.bytes()) < 512 {
			return failed(generic(SCInvalidField))
		}
		return response{}
	default:
		return failed(generic(SCInvalidField))
	}
}
