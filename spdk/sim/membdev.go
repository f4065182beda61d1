package sim

import (
	"context"
	"fmt"

	"github.com/google/uuid"
)

// mallocBdev keeps its data in memory; they end with the process.
type mallocBdev struct{ st store }

func (m *mallocBdev) ReadAt(_ context.Context, p []byte, off int64) error { return m.st.ReadAt(p, off) }

func (m *mallocBdev) WriteAt(_ context.Context, p []byte, off int64) error {
	return m.st.WriteAt(p, off)
}

func (m *mallocBdev) Unmap(_ context.Context, off, n int64) error       { return m.st.Zero(off, n) }
func (m *mallocBdev) WriteZeroes(_ context.Context, off, n int64) error { return m.st.Zero(off, n) }
func (m *mallocBdev) Flush(context.Context) error                       { return nil }
func (m *mallocBdev) Reset(context.Context) error                       { return nil }

func (m *mallocBdev) supports(t ioType) bool {
	switch t {
	case ioRead, ioWrite, ioFlush, ioReset, ioUnmap, ioWriteZeroes, ioZcopy, ioAbort, ioCompare, ioCopy:
		return true
	default:
		return false
	}
}

func (m *mallocBdev) driverSpecific() object { return object{} }

// nullBdev loses what is written and reads as it was left by others: here, zeroes.
type nullBdev struct{}

func (nullBdev) ReadAt(_ context.Context, p []byte, _ int64) error { clear(p); return nil }
func (nullBdev) WriteAt(context.Context, []byte, int64) error      { return nil }
func (nullBdev) Unmap(context.Context, int64, int64) error         { return errFailed }
func (nullBdev) WriteZeroes(context.Context, int64, int64) error   { return nil }
func (nullBdev) Flush(context.Context) error                       { return nil }
func (nullBdev) Reset(context.Context) error                       { return nil }
func (nullBdev) driverSpecific() object                            { return object{} }

func (nullBdev) supports(t ioType) bool {
	switch t {
	case ioRead, ioWrite, ioWriteZeroes, ioReset, ioAbort:
		return true
	default:
		return false
	}
}

func (c *call) bdevMallocCreate() {
	var req struct {
		Name              *string   `json:"name"`
		UUID              uuid.UUID `json:"uuid"`
		NumBlocks         uint64    `json:"num_blocks" rpc:"required"`
		BlockSize         uint32    `json:"block_size" rpc:"required"`
		PhysicalBlockSize uint32    `json:"physical_block_size"`
		Boundary          uint32    `json:"optimal_io_boundary"`
		MDSize            uint32    `json:"md_size"`
		MDInterleave      bool      `json:"md_interleave"`
		DIFType           int32     `json:"dif_type"`
		DIFHead           bool      `json:"dif_is_head_of_md"`
		DIFFormat         uint32    `json:"dif_pi_format"`
		NUMA              int32     `json:"numa_id"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	if req.NumBlocks == 0 || req.BlockSize == 0 || req.BlockSize%512 != 0 || req.PhysicalBlockSize%512 != 0 || req.MDSize != 0 {
		c.failErrno(errINVAL)
		return
	}
	name := fmt.Sprintf("Malloc%d", c.p.bdevs.mallocs)
	if req.Name != nil {
		name = *req.Name
	} else {
		c.p.bdevs.mallocs++
	}
	c.registerBdev(&bdev{name: name, uuid: req.UUID, product: "Malloc disk", module: "malloc",
		blockSize: int(req.BlockSize), dev: &mallocBdev{st: newMemStore()}, info: bdevInfo{numa: true, memDomains: []string{"DMA", "ACCEL"}}}, req.NumBlocks)
}

func (c *call) bdevMallocDelete() { c.deleteBdev("malloc", badParamsInternal) }

func (c *call) bdevNullCreate() {
	var req struct {
		Name              string    `json:"name" rpc:"required"`
		UUID              uuid.UUID `json:"uuid"`
		NumBlocks         uint64    `json:"num_blocks" rpc:"required"`
		BlockSize         uint32    `json:"block_size" rpc:"required"`
		PhysicalBlockSize uint32    `json:"physical_block_size"`
		MDSize            uint32    `json:"md_size"`
		DIFType           int32     `json:"dif_type"`
		DIFHead           bool      `json:"dif_is_head_of_md"`
		DIFFormat         uint32    `json:"dif_pi_format"`
		WriteGranularity  uint32    `json:"preferred_write_granularity"`
		WriteAlignment    uint32    `json:"preferred_write_alignment"`
		WriteSize         uint32    `json:"optimal_write_size"`
		UnmapGranularity  uint32    `json:"preferred_unmap_granularity"`
		UnmapAlignment    uint32    `json:"preferred_unmap_alignment"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	if req.NumBlocks == 0 || req.BlockSize%512 != 0 || req.PhysicalBlockSize%512 != 0 || req.MDSize != 0 {
		c.failErrno(errINVAL)
		return
	}
	b := &bdev{name: req.Name, uuid: req.UUID, product: "Null disk", module: "null", blockSize: int(req.BlockSize), dev: nullBdev{}}
	b.info.ioUnits = [5]uint32{req.WriteAlignment, req.WriteGranularity, req.WriteSize, req.UnmapAlignment, req.UnmapGranularity}
	c.registerBdev(b, req.NumBlocks)
}

// registerBdev registers b and answers with its name.
func (c *call) registerBdev(b *bdev, blocks uint64) {
	b.numBlocks.Store(blocks)
	if rc := c.p.bdevs.register(b); rc != 0 {
		c.failErrno(rc)
		return
	}
	c.ok(b.name)
}

func (c *call) bdevNullDelete() { c.deleteBdev("null", badParamsInternal) }

func (c *call) bdevNullResize() {
	var req struct {
		Name    string `json:"name" rpc:"required"`
		NewSize uint64 `json:"new_size" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	b := c.p.bdevs.byName(req.Name)
	switch {
	case b == nil || b.removing:
		c.failErrno(errNODEV)
	case b.module != "null" || int64(req.NewSize) < b.sizeBytes()>>20:
		c.failErrno(errINVAL)
	default:
		if rc := b.resized(req.NewSize << 20 / uint64(b.blockSize)); rc != 0 {
			c.failErrno(rc)
			return
		}
		c.ok(true)
	}
}
