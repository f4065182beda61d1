package sim

import (
	"context"
	"math/bits"
	"os"
	"path/filepath"

	"github.com/google/uuid"
)

// aioParams are the parameters of bdev_aio_create.
type aioParams struct {
	Name      string    `json:"name" rpc:"required"`
	Filename  string    `json:"filename" rpc:"required"`
	BlockSize uint32    `json:"block_size"`
	Readonly  bool      `json:"readonly"`
	Fallocate bool      `json:"fallocate"`
	Nowait    bool      `json:"nowait"`
	UUID      uuid.UUID `json:"uuid"`
}

// aioBdev is a bdev over a disk of the node.
type aioBdev struct {
	d      *disk
	params aioParams
}

// createAIO makes the bdev and examines what is on the disk. A file name that is
// no disk of the node yet becomes one if the file exists.
func (p *process) createAIO(req aioParams) errno {
	if req.BlockSize == 0 || req.BlockSize < 512 || bits.OnesCount32(req.BlockSize) != 1 {
		return errINVAL
	}
	d := p.node.disk(req.Filename)
	if d == nil {
		var rc errno
		if d, rc = p.node.adoptFile(req.Filename); rc != 0 {
			return rc
		}
	}
	if d.size%int64(req.BlockSize) != 0 {
		return errINVAL
	}
	b := &bdev{name: req.Name, uuid: req.UUID, product: "AIO disk", module: "aio",
		blockSize: int(req.BlockSize), dev: &aioBdev{d: d, params: req}}
	b.numBlocks.Store(uint64(d.size) / uint64(req.BlockSize))
	return p.bdevs.register(b)
}

// adoptFile makes a disk of a file that exists.
func (n *Node) adoptFile(file string) (*disk, errno) {
	if !filepath.IsAbs(file) {
		return nil, errNOENT
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, errNOENT
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		_ = f.Close()
		return nil, errINVAL
	}
	d := newDisk(file, st.Size(), &fileStore{f: f}, n.cfg.Clock)
	n.disksMu.Lock()
	defer n.disksMu.Unlock()
	n.disks[file] = d
	return d, 0
}

func (a *aioBdev) ReadAt(ctx context.Context, p []byte, off int64) error {
	return a.d.ReadAt(ctx, p, off)
}

func (a *aioBdev) WriteAt(ctx context.Context, p []byte, off int64) error {
	if a.params.Readonly {
		return errFailed
	}
	return a.d.WriteAt(ctx, p, off)
}

func (a *aioBdev) Unmap(ctx context.Context, off, n int64) error {
	if !a.params.Fallocate {
		return errFailed
	}
	return a.d.Zero(ctx, off, n)
}

func (a *aioBdev) WriteZeroes(ctx context.Context, off, n int64) error {
	return a.d.Zero(ctx, off, n)
}

func (a *aioBdev) Flush(context.Context) error { return nil }
func (a *aioBdev) Reset(context.Context) error { return nil }

func (a *aioBdev) lvsHolder() *lvsHolder { return &a.d.lvs }

func (a *aioBdev) supports(t ioType) bool {
	switch t {
	case ioRead, ioWrite, ioFlush, ioReset:
		return true
	case ioUnmap, ioWriteZeroes:
		return a.params.Fallocate
	default:
		return false
	}
}

func (a *aioBdev) driverSpecific() object {
	return obj("aio", obj("filename", a.params.Filename, "block_size_override", true,
		"readonly", a.params.Readonly, "fallocate", a.params.Fallocate, "nowait", a.params.Nowait))
}

func (c *call) bdevAIOCreate() {
	var req aioParams
	if !c.decode(&req, badParamsInternal) {
		return
	}
	if rc := c.p.createAIO(req); rc != 0 {
		c.failErrno(rc)
		return
	}
	c.ok(req.Name)
}

// bdevAIORescan looks for a new size of the disk: a node's disks keep theirs.
func (c *call) bdevAIORescan() {
	var req struct {
		Name string `json:"name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	b := c.p.bdevs.byName(req.Name)
	if b == nil || b.module != "aio" {
		c.failErrno(errNODEV)
		return
	}
	c.ok(true)
}

func (c *call) bdevAIODelete() { c.deleteBdev("aio", badParamsInternal) }

// deleteBdev unregisters the bdev named by the only parameter, "name", if it is
// of the given module (spdk_bdev_unregister_by_name): errNODEV otherwise.
func (c *call) deleteBdev(module string, bad rpcError) {
	var req struct {
		Name string `json:"name" rpc:"required"`
	}
	if !c.decode(&req, bad) {
		return
	}
	b := c.p.bdevs.byName(req.Name)
	if b == nil || b.removing || b.module != module {
		c.failErrno(errNODEV)
		return
	}
	b.unregister(func(rc errno) {
		if rc != 0 {
			c.failErrno(rc)
			return
		}
		c.ok(true)
	})
}
