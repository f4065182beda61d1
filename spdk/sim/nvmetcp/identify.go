package nvmetcp

import (
	"math/bits"
	"sort"
)

// CNS values of Identify (NVM Express Base 2.0, figure 273).
const (
	cnsNamespace       = 0x00
	cnsController      = 0x01
	cnsActiveList      = 0x02
	cnsDescriptors     = 0x03
	cnsNamespaceIOCS   = 0x05
	cnsControllerIOCS  = 0x06
	cnsActiveListIOCS  = 0x07
	cnsIndependent     = 0x08
	cnsCommandSets     = 0x1c
	firmwareRevision   = "26.09"
	abortLimit         = 3
	anaTransitionTime  = 10 // seconds
	maxActiveListNSIDs = pageSize / 4
)

// Limits that SPDK announces: Write Zeroes in pages as a power of two, ranges of
// Dataset Management and blocks in each.
const (
	maxZeroesShift = 12
	maxDSMRanges   = 1
	maxDSMRange    = 1 << 21
)

// identify fills one 4 KiB structure (nvmf_ctrlr_identify).
func (a *association) identify(r *request) response {
	out := r.bytes()
	cns := uint8(r.cmd.dword(10))
	if len(out) < pageSize || (a.sub.discovery && cns != cnsController) {
		return failed(generic(SCInvalidField))
	}
	out = out[:pageSize]
	nsid, csi := r.cmd.nsid(), uint8(r.cmd.dword(11)>>24)
	s := a.sub
	s.mu.Lock()
	defer s.mu.Unlock()
	switch cns {
	case cnsController:
		a.identifyController(out)
		return response{}
	case cnsActiveList, cnsActiveListIOCS:
		return s.activeList(out, nsid, cns == cnsActiveListIOCS && csi != 0)
	case cnsControllerIOCS:
		if csi == 0 {
			out[1], out[3] = maxZeroesShift, maxDSMRanges
			le.PutUint32(out[4:], maxDSMRange)
			le.PutUint64(out[8:], maxDSMRanges*maxDSMRange)
		}
		return response{}
	case cnsCommandSets:
		if id := uint16(r.cmd.dword(10) >> 16); id != 0xffff && id != a.cntlid {
			return failed(generic(SCInvalidField))
		}
		out[0] = 1 // NVM command set
		return response{}
	case cnsNamespace, cnsDescriptors, cnsNamespaceIOCS, cnsIndependent:
	default:
		return failed(generic(SCInvalidField))
	}
	if nsid == 0 || nsid > s.cfg.MaxNamespaces {
		return failed(generic(SCInvalidNamespace))
	}
	ns := s.namespaces[nsid]
	switch {
	case ns == nil && cns == cnsDescriptors:
		return failed(generic(SCInvalidField))
	case ns == nil && cns == cnsNamespaceIOCS:
		return failed(generic(SCInvalidNamespace))
	case ns == nil: // an inactive namespace: all zeroes
	case cns == cnsNamespace:
		a.identifyNamespace(out, ns)
	case cns == cnsDescriptors:
		ns.descriptors(out)
	case cns == cnsIndependent:
		out[1] = 1 // shared
		le.PutUint32(out[4:], ns.ANAGroupID)
		out[14] = 1 // ready
	}
	return response{}
}

func (s *Subsystem) activeList(out []byte, after uint32, otherSet bool) response {
	if after >= 0xfffffffe {
		return failed(generic(SCInvalidNamespace))
	}
	if otherSet {
		return failed(generic(SCInvalidField))
	}
	n := 0
	for _, id := range s.nsids() {
		if id > after && n < maxActiveListNSIDs {
			le.PutUint32(out[4*n:], id)
			n++
		}
	}
	return response{}
}

// nsids are the namespace ids in order. The caller holds s.mu.
func (s *Subsystem) nsids() []uint32 {
	ids := make([]uint32, 0, len(s.namespaces))
	for id := range s.namespaces {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	return ids
}

// identifyController fills Identify Controller (spdk_nvmf_ctrlr_identify_ctrlr).
func (a *association) identifyController(out []byte) {
	s, cfg := a.sub, a.sub.t.cfg
	padded(out[64:72], firmwareRevision)
	out[77] = uint8(bits.Len(uint(cfg.MaxIOSize/pageSize)) - 1) // MDTS
	le.PutUint16(out[78:], a.cntlid)
	le.PutUint32(out[80:], 0x00020000)
	out[259] = maxAERs - 1
	out[261] = 1 << 2 // LPA: extended data
	out[262] = 127
	le.PutUint16(out[266:], 0x0157)
	le.PutUint16(out[268:], 0x0175)
	le.PutUint16(out[514:], uint16(cfg.MaxQueueDepth))
	le.PutUint32(out[536:], 1|1<<2|1<<20) // SGLs, keyed, offset
	copy(out[768:768+maxNQNLen], s.cfg.NQN)
	le.PutUint32(out[1792:], uint32(sqeSize+cfg.InCapsuleDataSize)/16)
	le.PutUint32(out[1796:], cqeSize/16)
	out[1803] = 1 // one SGL descriptor
	if s.discovery {
		out[111] = 2
		le.PutUint32(out[92:], aecDiscovery)
		return
	}
	le.PutUint16(out[0:], 0x8086)
	le.PutUint16(out[2:], 0x8086)
	padded(out[4:24], s.cfg.Serial)
	padded(out[24:64], s.cfg.Model)
	out[72] = 6
	copy(out[73:76], []byte{0xe4, 0xd2, 0x5c})
	out[76] = 1<<0 | 1<<1 // CMIC: several ports and controllers
	oaes := uint32(aecNamespace)
	le.PutUint32(out[96:], 1) // 128-bit host id
	out[111] = 1
	out[258] = abortLimit
	out[260] = 1<<0 | 1<<1 // FRMW: one read-only slot
	out[261] |= 1<<1 | 1<<5
	le.PutUint16(out[320:], uint16(cfg.KeepAliveUnits))
	out[512], out[513] = 0x66, 0x44
	le.PutUint32(out[516:], s.cfg.MaxNamespaces)
	oncs := uint16(1<<0 | 1<<3) // compare, write zeroes
	if s.canDeallocate() {
		oncs |= 1 << 2 // dataset management
	}
	le.PutUint16(out[520:], oncs)
	out[525] = 1 | 2<<1 // write cache, no broadcast flush
	if s.cfg.ANAReporting {
		out[76] |= 1 << 3
		oaes |= aecANA
		out[342] = anaTransitionTime
		out[343] = 1<<0 | 1<<1 | 1<<2 | 1<<6
		le.PutUint32(out[344:], s.cfg.MaxNamespaces)
		le.PutUint32(out[348:], s.cfg.MaxNamespaces)
		le.PutUint32(out[540:], s.cfg.MaxNamespaces)
	}
	le.PutUint32(out[92:], oaes)
}

// canDeallocate says whether every namespace announces it (nvmf_ctrlr_dsm_supported). The caller holds s.mu.
func (s *Subsystem) canDeallocate() bool {
	for _, ns := range s.namespaces {
		if !canDeallocate(ns.Device) {
			return false
		}
	}
	return true
}

// identifyNamespace fills Identify Namespace (nvmf_bdev_ctrlr_identify_ns).
func (a *association) identifyNamespace(out []byte, ns *namespace) {
	bs := ns.Device.BlockSize()
	blocks := uint64(ns.Device.SizeBytes()) / uint64(bs)
	le.PutUint64(out[0:], blocks)
	le.PutUint64(out[8:], blocks)
	state := a.sub.anaState(a.listen, ns.ANAGroupID)
	if state != ANAInaccessible && state != ANAPersistentLoss {
		le.PutUint64(out[16:], blocks)
	}
	out[24] = 1<<1 | 1<<4 // NSFEAT: atomic write unit, optimal sizes
	out[30] = 1           // shared
	le.PutUint16(out[72:], uint16(a.sub.t.cfg.MaxIOSize/bs-1))
	if a.sub.cfg.ANAReporting {
		le.PutUint32(out[92:], ns.ANAGroupID)
	}
	copy(out[104:], ns.NGUID[:])
	le.PutUint32(out[128:], uint32(bits.Len(uint(bs))-1)<<16)
}

// descriptors fills the namespace identification descriptor list.
func (ns *namespace) descriptors(out []byte) {
	add := func(kind byte, id []byte) {
		out[0], out[1] = kind, byte(len(id))
		copy(out[4:], id)
		out = out[4+len(id):]
	}
	if ns.NGUID != [16]byte{} {
		add(2, ns.NGUID[:])
	}
	if ns.UUID != [16]byte{} {
		add(3, ns.UUID[:])
	}
	// SPDK leaves the command set descriptor out for the NVM command set: its
	// value, 0, counts as absent.
}

// padded fills dst with text and spaces.
func padded(dst []byte, text string) {
	n := copy(dst, text)
	for i := n; i < len(dst); i++ {
		dst[i] = ' '
	}
}
