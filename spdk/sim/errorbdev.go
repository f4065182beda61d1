package sim

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// errorBdev passes I/O on to its base but for what bdev_error_inject_error says.
type errorBdev struct {
	base *desc

	mu       sync.Mutex
	vector   map[ioType]*injection
	inflight uint64
	resume   chan struct{} // closed when pending I/O goes on or is aborted
	aborted  bool          // what resume means
}

// injection is what happens to I/O of one type.
type injection struct {
	kind          string // error_type
	left          uint32 // I/O still hit
	depth         uint64 // only when so many I/O are in flight
	sct, sc       uint8
	corruptOffset uint64
	corruptValue  uint8
}

// begin decides over an I/O: an error ends it, a nil injection lets it through.
func (e *errorBdev) begin(ctx context.Context, t ioType) (*injection, error) {
	for {
		e.mu.Lock()
		in := e.vector[t]
		if in == nil || in.left == 0 || e.inflight < in.depth {
			e.inflight++
			e.mu.Unlock()
			return nil, nil
		}
		in.left--
		resume := e.resume
		switch in.kind {
		case "pending":
			e.mu.Unlock()
			select {
			case <-resume:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			e.mu.Lock()
			aborted := e.aborted
			e.mu.Unlock()
			if aborted {
				return nil, errAborted
			}
			continue
		case "corrupt_data":
			e.inflight++
			e.mu.Unlock()
			return in, nil
		case "nvme_failure":
			e.mu.Unlock()
			return nil, &nvmetcp.StatusError{SCT: in.sct, SC: in.sc}
		case "nomem":
			e.mu.Unlock()
			return nil, errNOMEM
		default:
			e.mu.Unlock()
			return nil, errFailed
		}
	}
}

func (e *errorBdev) end() {
	e.mu.Lock()
	e.inflight--
	e.mu.Unlock()
}

// through runs an I/O that the injections leave alone.
func (e *errorBdev) through(ctx context.Context, t ioType, io func(*injection) error) error {
	in, err := e.begin(ctx, t)
	if err != nil {
		return err
	}
	defer e.end()
	return io(in)
}

func (in *injection) corrupt(p []byte) {
	if in != nil && in.corruptOffset < uint64(len(p)) {
		p[in.corruptOffset] ^= in.corruptValue
	}
}

func (e *errorBdev) ReadAt(ctx context.Context, p []byte, off int64) error {
	return e.through(ctx, ioRead, func(in *injection) error {
		err := e.base.b.ReadAt(ctx, p, off)
		if err == nil {
			in.corrupt(p)
		}
		return err
	})
}

func (e *errorBdev) WriteAt(ctx context.Context, p []byte, off int64) error {
	return e.through(ctx, ioWrite, func(in *injection) error {
		if in != nil {
			p = append([]byte{}, p...)
			in.corrupt(p)
		}
		return e.base.b.WriteAt(ctx, p, off)
	})
}

func (e *errorBdev) Unmap(ctx context.Context, off, n int64) error {
	return e.through(ctx, ioUnmap, func(*injection) error { return e.base.b.Unmap(ctx, off, n) })
}

func (e *errorBdev) WriteZeroes(ctx context.Context, off, n int64) error {
	return e.base.b.WriteZeroes(ctx, off, n)
}

func (e *errorBdev) Flush(ctx context.Context) error {
	return e.through(ctx, ioFlush, func(*injection) error { return e.base.b.Flush(ctx) })
}

// Reset aborts what is pending.
func (e *errorBdev) Reset(context.Context) error {
	e.letGo(true)
	return nil
}

func (e *errorBdev) letGo(aborted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.aborted = aborted
	close(e.resume)
	e.resume = make(chan struct{})
}

func (e *errorBdev) lvsHolder() *lvsHolder { return e.base.b.lvsHolder() }

func (e *errorBdev) supports(t ioType) bool { return e.base.b.supports(t) }

func (e *errorBdev) driverSpecific() object {
	return obj("error_disk", obj("base_bdev", e.base.b.name))
}

// errorBdevName is the name that bdev_error_create gives.
func errorBdevName(base string) string { return "EE_" + base }

func (c *call) bdevErrorCreate() {
	var req struct {
		BaseName string    `json:"base_name" rpc:"required"`
		UUID     uuid.UUID `json:"uuid"`
	}
	if !c.decode(&req, badParamsDecode) {
		return
	}
	e := &errorBdev{vector: map[ioType]*injection{}, resume: make(chan struct{})}
	b := &bdev{name: errorBdevName(req.BaseName), uuid: req.UUID, product: "Error Injection Disk", module: "error", dev: e}
	base, rc := c.p.bdevs.open(req.BaseName, true, func(ev bdevEvent) {
		if ev == bdevRemoved {
			b.unregister(nil)
		}
	})
	if rc == 0 {
		rc = base.b.claimFor("error")
		if rc != 0 {
			base.close()
		}
	}
	if rc != 0 {
		c.failErrno(rc)
		return
	}
	e.base = base
	b.blockSize = base.b.blockSize
	b.numBlocks.Store(base.b.numBlocks.Load())
	b.destruct = func(done func(errno)) {
		e.letGo(true)
		base.b.release()
		base.close()
		done(0)
	}
	if rc := c.p.bdevs.register(b); rc != 0 {
		base.b.release()
		base.close()
		c.failErrno(rc)
		return
	}
	c.ok(true)
}

func (c *call) bdevErrorDelete() { c.deleteBdev("error", badParamsDecode) }

func (c *call) errorBdev(name string) *errorBdev {
	b := c.p.bdevs.byName(name)
	if b == nil || b.removing {
		return nil
	}
	e, _ := b.dev.(*errorBdev)
	return e
}

func (c *call) bdevErrorInjectError() {
	req := struct {
		Name          string `json:"name" rpc:"required"`
		IOType        string `json:"io_type" rpc:"required" enum:"clear,read,write,unmap,flush,all"`
		ErrorType     string `json:"error_type" rpc:"required" enum:"failure,pending,corrupt_data,nomem,nvme_failure"`
		SCT           uint32 `json:"nvme_sct"`
		SC            uint32 `json:"nvme_sc"`
		Num           uint32 `json:"num"`
		QueueDepth    uint64 `json:"queue_depth"`
		CorruptOffset uint64 `json:"corrupt_offset"`
		CorruptValue  uint8  `json:"corrupt_value"`
	}{Num: 1}
	if !c.decode(&req, badParamsDecode) {
		return
	}
	if (req.ErrorType == "nvme_failure") != (req.SCT != 0 || req.SC != 0) {
		c.fail(int(errINVAL), "nvme_sct or nvme_sc should be specified for NVMe error injection")
		return
	}
	if req.ErrorType == "corrupt_data" && req.CorruptValue == 0 {
		c.failErrno(errINVAL)
		return
	}
	e := c.errorBdev(req.Name)
	if e == nil {
		c.failErrno(errNODEV)
		return
	}
	types := map[string][]ioType{"read": {ioRead}, "write": {ioWrite}, "unmap": {ioUnmap}, "flush": {ioFlush},
		"all": {ioRead, ioWrite, ioUnmap, ioFlush}, "clear": {ioRead, ioWrite, ioUnmap, ioFlush}}[req.IOType]
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range types {
		if req.IOType == "clear" {
			delete(e.vector, t)
			continue
		}
		e.vector[t] = &injection{kind: req.ErrorType, left: req.Num, depth: req.QueueDepth, sct: uint8(req.SCT),
			sc: uint8(req.SC), corruptOffset: req.CorruptOffset, corruptValue: req.CorruptValue}
	}
	c.ok(true)
}

func (c *call) bdevErrorResumePending() {
	var req struct {
		Name string `json:"name" rpc:"required"`
	}
	if !c.decode(&req, badParamsDecode) {
		return
	}
	e := c.errorBdev(req.Name)
	if e == nil {
		c.failErrno(errNODEV)
		return
	}
	e.mu.Lock()
	for _, in := range e.vector {
		if in.kind == "pending" {
			in.left = 0
		}
	}
	e.mu.Unlock()
	e.letGo(false)
	c.ok(true)
}
