package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// statusPoll is how often a controller's status is read while it changes.
const statusPoll = 10 * time.Millisecond

// adminCommand runs an admin command with dwords 10 and following.
func (c *Controller) adminCommand(ctx context.Context, op uint8, nsid uint32, data []byte, dwords ...uint32) (uint64, error) {
	var cmd sqe
	cmd[0] = op
	cmd.setNSID(nsid)
	for i, v := range dwords {
		cmd.setDword(10+i, v)
	}
	return c.admin.do(ctx, &cmd, data)
}

func (c *Controller) getProperty(ctx context.Context, offset uint32, size8 bool) (uint64, error) {
	ctx, stop := c.step(ctx)
	defer stop()
	var cmd sqe
	cmd[0], cmd[4] = opFabrics, fctypePropertyGet
	if size8 {
		cmd[40] = 1
	}
	le.PutUint32(cmd[44:], offset)
	v, err := c.admin.do(ctx, &cmd, nil)
	if err != nil {
		return 0, fmt.Errorf("read controller property %#x: %w", offset, err)
	}
	return v, nil
}

func (c *Controller) setProperty(ctx context.Context, offset, value uint32) error {
	ctx, stop := c.step(ctx)
	defer stop()
	var cmd sqe
	cmd[0], cmd[4] = opFabrics, fctypePropertySet
	le.PutUint32(cmd[44:], offset)
	le.PutUint32(cmd[48:], value)
	if _, err := c.admin.do(ctx, &cmd, nil); err != nil {
		return fmt.Errorf("write controller property %#x: %w", offset, err)
	}
	return nil
}

// pollStatus reads CSTS until it is as wanted.
func (c *Controller) pollStatus(ctx context.Context, want func(csts uint32) bool) error {
	for {
		v, err := c.getProperty(ctx, propCSTS, false)
		if err != nil {
			return err
		}
		csts := uint32(v)
		if want(csts) {
			return nil
		}
		if csts&cstsFatal != 0 {
			return errors.New("the controller reports a fatal status")
		}
		t := time.NewTimer(statusPoll)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

func (c *Controller) identifyPage(ctx context.Context, cns uint32, nsid uint32) ([]byte, error) {
	out := make([]byte, pageSize)
	_, err := c.adminCommand(ctx, opIdentify, nsid, out, cns)
	return out, err
}

// logPage reads n bytes of a log page; reading it re-arms its event.
func (c *Controller) logPage(ctx context.Context, lid uint8, lsp uint32, n int) ([]byte, error) {
	out := make([]byte, (n+3)&^3)
	for off := 0; off < len(out); off += c.maxIO {
		part := out[off:min(off+c.maxIO, len(out))]
		numd := uint32(len(part)/4 - 1)
		_, err := c.adminCommand(ctx, opGetLogPage, globalNSID, part, uint32(lid)|lsp<<8|numd<<16, numd>>16, uint32(off), 0)
		if err != nil {
			return nil, fmt.Errorf("read log page %#02x: %w", lid, err)
		}
	}
	return out, nil
}

// Namespaces asks for the active namespaces, by id.
func (c *Controller) Namespaces(ctx context.Context) ([]NamespaceInfo, error) {
	list, err := c.identifyPage(ctx, cnsActiveList, 0)
	if err != nil {
		return nil, fmt.Errorf("list the namespaces of %s: %w", c.cfg.SubNQN, err)
	}
	var all []NamespaceInfo
	for ; len(list) >= 4 && le.Uint32(list) != 0; list = list[4:] {
		ns, err := c.namespace(ctx, le.Uint32(list))
		if err != nil {
			return nil, err
		}
		if ns.SizeBytes > 0 {
			all = append(all, ns)
		}
	}
	return all, nil
}

// namespace identifies one namespace and remembers its format for I/O. A
// namespace that went away meanwhile has size 0.
func (c *Controller) namespace(ctx context.Context, nsid uint32) (NamespaceInfo, error) {
	ns := NamespaceInfo{NSID: nsid}
	id, err := c.identifyPage(ctx, cnsNamespace, nsid)
	if err != nil {
		return ns, fmt.Errorf("identify namespace %d of %s: %w", nsid, c.cfg.SubNQN, err)
	}
	blocks := int64(le.Uint64(id))
	if blocks == 0 {
		return ns, nil
	}
	shift := id[128+4*(id[26]&0xf)+2]
	if shift < 9 || shift > 16 {
		return ns, fmt.Errorf("identify namespace %d of %s: blocks of 2^%d bytes are not supported", nsid, c.cfg.SubNQN, shift)
	}
	ns.BlockSize = 1 << shift
	ns.SizeBytes = blocks * int64(ns.BlockSize)
	ns.ANAGroup = le.Uint32(id[92:])
	copy(ns.NGUID[:], id[104:120])
	desc, err := c.identifyPage(ctx, cnsDescriptors, nsid)
	if err != nil {
		return ns, fmt.Errorf("identify namespace %d of %s: %w", nsid, c.cfg.SubNQN, err)
	}
	for len(desc) > 4 && desc[1] != 0 && len(desc) >= 4+int(desc[1]) {
		if desc[0] == 3 && desc[1] == 16 {
			copy(ns.UUID[:], desc[4:20])
		}
		desc = desc[4+int(desc[1]):]
	}
	c.mu.Lock()
	c.namespaces[nsid] = ns
	c.mu.Unlock()
	return ns, nil
}

// ANAStates asks for the state of every ANA group that has a namespace. A
// controller without ANA reporting has none: everything is optimized. Reading
// re-arms EventANAChanged.
func (c *Controller) ANAStates(ctx context.Context) (map[uint32]ANAState, error) {
	states := map[uint32]ANAState{}
	if !c.hasANA {
		return states, nil
	}
	page, err := c.logPage(ctx, logANA, 1, 16+32*c.anaGroups)
	if err != nil {
		return nil, err
	}
	n := int(le.Uint16(page[8:]))
	for i := 0; i < n && 16+32*(i+1) <= len(page); i++ {
		d := page[16+32*i:]
		states[le.Uint32(d)] = ANAState(d[16] & 0xf)
	}
	return states, nil
}

// HasANA says whether the controller reports ANA states.
func (c *Controller) HasANA() bool { return c.hasANA }

// KeepAlive sends a keep-alive and waits for its answer.
func (c *Controller) KeepAlive(ctx context.Context) error {
	if _, err := c.adminCommand(ctx, opKeepAlive, 0, nil); err != nil {
		return fmt.Errorf("keep-alive to %s: %w", c.cfg.SubNQN, err)
	}
	return nil
}

// Shutdown ends the association in order, as Linux does: the I/O queues are
// closed, which fails what is in flight on them, the controller is shut down
// (CC.SHN), the admin queue is closed. Everything is closed even if that fails.
func (c *Controller) Shutdown(ctx context.Context) error {
	c.shutting.Store(true)
	for _, q := range c.io {
		q.close(errClosed)
	}
	err := c.setProperty(ctx, propCC, ccEnable|ccIOSQES|ccIOCQES|1<<ccSHNShift)
	if err == nil {
		err = c.pollStatus(ctx, func(csts uint32) bool { return csts&cstsSHSTMask == cstsSHSTDone })
	}
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("shut down controller %d of %s: %w", c.cntlid, c.cfg.SubNQN, err)
	}
	return nil
}
