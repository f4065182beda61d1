package nvmetcp

import (
	"bytes"
	"context"
)

// io runs an I/O command on the namespace's device (nvmf_ctrlr_process_io_cmd).
// The device sees the target's context: a host that disconnects does not end its
// I/O, as in SPDK.
func (a *association) io(q *qpair, r *request) response {
	nsid := r.cmd.nsid()
	a.mu.Lock()
	enabled := a.cc&ccEnable != 0
	a.mu.Unlock()
	if !enabled {
		return failed(generic(SCCommandSequence))
	}
	ns, err := a.sub.enterIO(q.queued, a, nsid)
	switch {
	case err != nil:
		return failed(err)
	case ns == nil:
		return response{dropped: true}
	}
	defer a.sub.leaveIO(nsid)
	if r.cmd.fused() {
		return failed(generic(SCInvalidField))
	}
	return response{err: ns.run(a.sub.t.ctx, r)}
}

// run executes a command; its data is in r or goes there.
func (ns *namespace) run(ctx context.Context, r *request) *StatusError {
	dev := ns.Device
	switch r.cmd.opcode() {
	case opFlush:
		return status(dev.Flush(ctx))
	case opDSM:
		return ns.deallocate(ctx, r)
	case opRead, opWrite, opCompare, opWriteZeroes:
	default:
		return generic(SCInvalidOpcode).dnr()
	}
	off, n, ok := ns.byteRange(r.cmd.lba(), r.cmd.blocks())
	if !ok {
		return generic(SCLBAOutOfRange)
	}
	if r.cmd.opcode() == opWriteZeroes {
		if r.cmd.dword(12)&(1<<25) != 0 {
			return generic(SCInvalidField) // SPDK refuses DEAC
		}
		return status(dev.WriteZeroes(ctx, off, n, false))
	}
	if n > int64(r.cmd.sglLength()) || r.dir == dirNone {
		return generic(SCDataSGLLengthInvalid)
	}
	switch r.cmd.opcode() {
	case opRead:
		r.ensureRead(int(n))
		return status(dev.ReadAt(ctx, r.data.b[:n], off))
	case opWrite:
		return status(dev.WriteAt(ctx, r.data.b[:n], off))
	default:
		return ns.compare(ctx, r.data.b[:n], off)
	}
}

// ensureRead gives a read its buffer; what the read does not fill is zeroed.
func (r *request) ensureRead(n int) {
	r.data = getBuffer(int(r.cmd.sglLength()))
	clear(r.data.b[n:])
}

// byteRange turns blocks into bytes; false if they reach beyond the device.
func (ns *namespace) byteRange(lba, blocks uint64) (off, n int64, ok bool) {
	bs := uint64(ns.Device.BlockSize())
	total := uint64(ns.Device.SizeBytes()) / bs
	if lba > total || blocks > total-lba {
		return 0, 0, false
	}
	return int64(lba * bs), int64(blocks * bs), true
}

func (ns *namespace) compare(ctx context.Context, want []byte, off int64) *StatusError {
	have := getBuffer(len(want))
	defer have.free()
	if err := ns.Device.ReadAt(ctx, have.b, off); err != nil {
		return status(err)
	}
	if !bytes.Equal(have.b, want) {
		return &StatusError{SCT: SCTMedia, SC: SCCompareFailure}
	}
	return nil
}

// dsmRange is the size of a range of Dataset Management: attributes, length in
// blocks, first block.
const dsmRange = 16

// deallocate serves Dataset Management; other attributes than deallocate are
// hints and ignored. Like SPDK it quietly leaves out what goes beyond the limits
// that Identify announces: further ranges, further blocks of a range.
func (ns *namespace) deallocate(ctx context.Context, r *request) *StatusError {
	if r.cmd.dword(11)&(1<<2) == 0 {
		return nil
	}
	count := int(r.cmd.dword(10)&0xff) + 1
	ranges := r.bytes()
	if count*dsmRange > len(ranges) {
		return generic(SCDataSGLLengthInvalid)
	}
	for i := range min(count, maxDSMRanges) {
		b := ranges[i*dsmRange:]
		off, n, ok := ns.byteRange(le.Uint64(b[8:]), min(uint64(le.Uint32(b[4:])), maxDSMRange))
		if !ok {
			return generic(SCInternalError)
		}
		if n == 0 {
			continue
		}
		if err := ns.Device.Unmap(ctx, off, n); err != nil {
			return status(err)
		}
	}
	return nil
}
