package nvmetcp

import (
	"bytes"
	"sort"
	"strings"
)

// getLogPage serves Get Log Page (nvmf_ctrlr_get_log_page).
func (a *association) getLogPage(r *request) response {
	out := r.bytes()
	dw10 := r.cmd.dword(10)
	lid, retain := uint8(dw10), dw10>>15&1 != 0
	offset := uint64(r.cmd.dword(12)) | uint64(r.cmd.dword(13))<<32
	length := (uint64(dw10>>16) | uint64(r.cmd.dword(11)&0xffff)<<16 + 1) * 4
	if len(out) == 0 || offset&3 != 0 || length > uint64(len(out)) {
		return failed(generic(SCInvalidField))
	}
	page, err := a.logPage(lid, dw10>>8&0x7f)
	if err != nil {
		return failed(err)
	}
	if page != nil {
		if offset >= uint64(len(page)) {
			return failed(generic(SCInvalidField))
		}
		copy(out[:length], page[offset:])
	}
	if !retain {
		switch lid {
		case logChangedNS:
			a.unmask(aenNamespaceChanged)
		case logANA:
			a.unmask(aenANAChanged)
		case logDiscovery:
			a.unmask(aenDiscoveryChanged)
		}
	}
	return response{}
}

// logPage is the content of a log page; nil stands for zeroes of any length.
func (a *association) logPage(lid uint8, specific7 uint32) ([]byte, *StatusError) {
	if a.sub.discovery {
		switch lid {
		case logSupported:
			return supported(logSupported, logDiscovery, logFeatureIDs), nil
		case logDiscovery:
			return a.discoveryLog(), nil
		case logFeatureIDs:
			return supported(featAsyncEvent, featKeepAlive), nil
		}
		return nil, specific(SCInvalidLogPage)
	}
	switch lid {
	case logSupported:
		lids := []uint8{logSupported, logError, logHealth, logFirmware, logChangedNS, logEffects, logFeatureIDs, logMICommands}
		if a.sub.cfg.ANAReporting {
			lids = append(lids, logANA)
		}
		return supported(lids...), nil
	case logError, logHealth, logMICommands:
		return nil, nil
	case logFirmware:
		page := make([]byte, 512)
		page[0] = 1
		padded(page[8:16], firmwareRevision)
		return page, nil
	case logChangedNS:
		page := make([]byte, pageSize)
		for i, id := range a.takeChanged() {
			le.PutUint32(page[4*i:], id)
		}
		return page, nil
	case logEffects:
		return effectsLog(), nil
	case logFeatureIDs:
		return featureEffects(), nil
	case logANA:
		if a.sub.cfg.ANAReporting {
			return a.anaLog(specific7&1 != 0), nil
		}
	}
	return nil, specific(SCInvalidLogPage)
}

// supported is a page of 256 dwords with bit 0 set at the indices given.
func supported(ids ...uint8) []byte {
	page := make([]byte, 1024)
	for _, id := range ids {
		page[4*int(id)] = 1
	}
	return page
}

// featureEffects is the feature identifiers supported and effects log page: all
// are of the controller.
func featureEffects() []byte {
	ids := []uint8{featArbitration, featPowerMgmt, featTemperature, featErrorRecovery, featWriteCache, featQueues, featCoalescing,
		featVector, featAtomicity, featAsyncEvent, featKeepAlive, featHostBehavior, featHostID}
	page := supported(ids...)
	for _, id := range ids {
		scope := byte(1 << 5) // bit 21: controller
		if id == featErrorRecovery {
			scope = 1 << 4 // bit 20: namespace
		}
		page[4*int(id)+2] = scope
	}
	return page
}

// effectsLog is the commands supported and effects log page.
func effectsLog() []byte {
	page := make([]byte, pageSize)
	const csupp, lbcc, nsScope, ctrlScope = 1 << 0, 1 << 1, 1 << 20, 1 << 21
	for _, op := range []int{opGetLogPage, opIdentify, opSetFeatures, opGetFeatures} {
		le.PutUint32(page[4*op:], csupp|nsScope|ctrlScope)
	}
	for _, op := range []int{opAbort, opAsyncEvent, opKeepAlive} {
		le.PutUint32(page[4*op:], csupp|ctrlScope)
	}
	for _, op := range []int{opFlush, opWrite, opWriteZeroes, opDSM} {
		le.PutUint32(page[1024+4*op:], csupp|lbcc|nsScope)
	}
	for _, op := range []int{opRead, opCompare} {
		le.PutUint32(page[1024+4*op:], csupp|nsScope)
	}
	return page
}

// anaLog is the ANA log page: every group that has a namespace. groupsOnly leaves
// the namespace ids out (RGO).
func (a *association) anaLog(groupsOnly bool) []byte {
	s := a.sub
	s.mu.Lock()
	defer s.mu.Unlock()
	members := map[uint32][]uint32{}
	for _, id := range s.nsids() {
		g := s.namespaces[id].ANAGroupID
		members[g] = append(members[g], id)
	}
	groups := make([]uint32, 0, len(members))
	for g := range members {
		groups = append(groups, g)
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i] < groups[j] })
	var count uint64
	if l := s.listeners[a.listen]; l != nil {
		count = l.count
	}
	page := make([]byte, 16)
	le.PutUint64(page, count)
	le.PutUint16(page[8:], uint16(len(groups)))
	for _, g := range groups {
		desc := make([]byte, 32)
		le.PutUint32(desc, g)
		le.PutUint64(desc[8:], count)
		desc[16] = byte(s.anaState(a.listen, g))
		if !groupsOnly {
			le.PutUint32(desc[4:], uint32(len(members[g])))
			for _, id := range members[g] {
				desc = le.AppendUint32(desc, id)
			}
		}
		page = append(page, desc...)
	}
	return page
}

const discoveryEntry = 1024

// discoveryLog lists the subsystems and addresses that the host may connect to.
func (a *association) discoveryLog() []byte {
	t := a.sub.t
	t.mu.Lock()
	generation := t.generation
	all := make([]*Subsystem, 0, len(t.subsystems))
	for _, s := range t.subsystems {
		if !s.discovery {
			all = append(all, s)
		}
	}
	t.mu.Unlock()
	sort.Slice(all, func(i, j int) bool { return all[i].cfg.NQN < all[j].cfg.NQN })
	var page bytes.Buffer
	page.Write(make([]byte, discoveryEntry))
	records := uint64(0)
	for _, s := range all {
		s.mu.Lock()
		_, ok := s.hosts[a.hostNQN]
		if ok || s.anyHost {
			for _, addr := range s.sortedListeners() {
				page.Write(s.discoveryRecord(addr))
				records++
			}
		}
		s.mu.Unlock()
	}
	b := page.Bytes()
	le.PutUint64(b, generation)
	le.PutUint64(b[8:], records)
	return b
}

// discoveryRecord is one entry of the discovery log page. The caller holds s.mu.
func (s *Subsystem) discoveryRecord(addr string) []byte {
	e := make([]byte, discoveryEntry)
	host, port := splitAddr(addr)
	e[0], e[1], e[2] = 3, 1, 2 // TCP, IPv4, NVM subsystem
	if strings.Contains(host, ":") {
		e[1] = 2
	}
	e[3] = 2 // a secure channel is not required
	le.PutUint16(e[4:], s.listeners[addr].portID)
	le.PutUint16(e[6:], 0xffff)
	le.PutUint16(e[8:], adminQueueDepth)
	padded(e[32:64], port)
	copy(e[256:512], s.cfg.NQN)
	padded(e[512:768], host)
	return e
}
