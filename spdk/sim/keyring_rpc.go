package sim

import (
	"slices"
	"strings"
)

func keyringMethods() map[string]method {
	return map[string]method{
		"keyring_file_add_key":    runtime((*call).keyringFileAddKey),
		"keyring_file_remove_key": runtime((*call).keyringFileRemoveKey),
		"keyring_get_keys":        runtime((*call).keyringGetKeys),
	}
}

func (c *call) keyringFileAddKey() {
	var req struct {
		Name string `json:"name" rpc:"required"`
		Path string `json:"path" rpc:"required"`
	}
	if !c.decodeRelaxed(&req, badParamsEINVAL) {
		return
	}
	switch rc := checkKeyFile(req.Path); {
	case strings.Index(req.Name, ":") > 0: // of a keyring of another name
		c.failErrno(errINVAL)
	case c.p.findKey(req.Name) != nil:
		c.failErrno(errEXIST)
	case rc != 0:
		c.failErrno(rc)
	default:
		c.p.keys = append(c.p.keys, &fileKey{name: req.Name, path: req.Path})
		c.ok(true)
	}
}

func (c *call) keyringFileRemoveKey() {
	var req struct {
		Name string `json:"name" rpc:"required"`
	}
	if !c.decode(&req, badParamsEINVAL) {
		return
	}
	k := c.p.findKey(req.Name)
	if k == nil {
		c.failErrno(errNOKEY)
		return
	}
	k.removed.Store(true)
	c.ok(true)
}

// keyringGetKeys shows removed keys, too, as long as they are held.
func (c *call) keyringGetKeys() {
	c.p.keys = slices.DeleteFunc(c.p.keys, func(k *fileKey) bool { return k.removed.Load() && c.p.holders(k) == 0 })
	list, removed := []object{}, []object{}
	for _, k := range c.p.keys {
		o := obj("name", k.name, "module", "keyring_file", "removed", k.removed.Load(), "probed", false)
		if k.removed.Load() {
			removed = append(removed, o.with("refcnt", c.p.holders(k)))
			continue
		}
		list = append(list, o.with("refcnt", 1+c.p.holders(k)).with("path", k.path))
	}
	c.ok(append(list, removed...))
}
