package sim

import (
	"context"
	"errors"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

func (c *nvmeCtrlr) keysNow() keyPair {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.keys
}

// hostAuth is how the controller authenticates, nil without a key.
func (c *nvmeCtrlr) hostAuth() *nvmetcp.HostAuth {
	k := c.keysNow()
	if k == (keyPair{}) {
		return nil
	}
	o := &c.m.opts
	return &nvmetcp.HostAuth{Key: k.host.source(), ControllerKey: k.controller.source(), Algorithms: algorithms(o.DHCHAPDigests, o.DHCHAPGroups)}
}

// setKeys changes the keys, and authenticates with a new one where there is a connection; the target disconnects one that fails.
func (c *nvmeCtrlr) setKeys(ctx context.Context, k keyPair) errno {
	c.m.mu.Lock()
	c.keys = k
	conn := c.conn
	c.m.mu.Unlock()
	if conn == nil {
		return 0
	}
	conn.SetAuth(c.hostAuth())
	if k.host == nil {
		return 0
	}
	switch err := conn.Authenticate(ctx); {
	case err == nil:
		return 0
	case errors.Is(err, nvmetcp.ErrAuthFailed):
		c.m.p.node.log.Info("Authenticating again failed", "controller", c.params.Name, "reason", err.Error())
		return errACCES
	default:
		c.m.p.node.log.Info("Authenticating again failed", "controller", c.params.Name, "reason", err.Error())
		return errIO
	}
}

func (c *call) nvmeSetKeys() {
	var req struct {
		Name           string `json:"name" rpc:"required"`
		DHCHAPKey      string `json:"dhchap_key"`
		DHCHAPCtrlrKey string `json:"dhchap_ctrlr_key"`
	}
	if !c.decode(&req, badParamsDecode) {
		return
	}
	keys, found := c.p.findKeys(req.DHCHAPKey, req.DHCHAPCtrlrKey)
	if !found {
		c.failErrno(errNOKEY)
		return
	}
	g := c.p.nvme.group(req.Name)
	if g == nil {
		c.failErrno(errNODEV)
		return
	}
	paths := append([]*nvmeCtrlr(nil), g.paths...)
	c.p.spawn(func(ctx context.Context) {
		for _, path := range paths {
			if rc := path.setKeys(ctx, keys); rc != 0 {
				c.failErrno(rc)
				return
			}
		}
		if ctx.Err() == nil {
			c.ok(true)
		}
	})
}
