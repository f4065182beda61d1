package spdk

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Key is a DH-HMAC-CHAP key of an SPDK node. It isn't comparable by its text and never prints it.
type Key struct {
	// Name is 1 to 64 lower-case letters, digits and dashes. Keys of one name are the same on a node.
	Name string
	text string
}

// NewKey makes a key of 32, 48 or 64 random bytes. Its text is that of NVMe, DHHC-1:01:base64(key, CRC-32):, where 01 has whoever uses it
// transform it with SHA-256 and its own NQN (NVM Express Base 2.0, 8.13.5.8).
func NewKey(name string, key []byte) Key {
	sum := binary.LittleEndian.AppendUint32(append([]byte(nil), key...), crc32.ChecksumIEEE(key))
	return Key{Name: name, text: "DHHC-1:01:" + base64.StdEncoding.EncodeToString(sum) + ":"}
}

// Text is the key itself, for whoever has to prove itself with it.
func (k Key) Text() string { return k.text }

// String is the key's name.
func (k Key) String() string { return "key " + k.Name }

// GoString is the same, for %#v.
func (k Key) GoString() string { return k.String() }

// Keys are what two sides of a connection prove themselves with: Host the one that connects, Controller the one that is connected to.
// The zero value is none.
type Keys struct{ Host, Controller Key }

// PutKeys has the node know the keys, with the content that they have here.
func (n *Node) PutKeys(ctx context.Context, keys Keys) error {
	for _, k := range []Key{keys.Host, keys.Controller} {
		if k.Name == "" {
			continue
		}
		err := n.rpc.Call(ctx, MethodPutKey, PutKeyParams{Name: k.Name, Key: k.text}, nil)
		if err != nil && !IsErrno(err, unix.EEXIST) {
			return n.wrap(err, "put %s", k)
		}
	}
	return nil
}

// DropKeys has the node forget all keys whose names begin so, but those to keep. Who holds one can't authenticate with it any more;
// connections stay.
func (n *Node) DropKeys(ctx context.Context, prefix string, keep ...string) error {
	if prefix == "" {
		return n.wrap(fmt.Errorf("a prefix is wanted"), "drop keys")
	}
	keys, err := KeyringGetKeys(ctx, n.rpc)
	if err != nil {
		return n.wrap(err, "list keys")
	}
	for _, k := range keys {
		if k.Removed || !strings.HasPrefix(k.Name, prefix) || slices.Contains(keep, k.Name) {
			continue
		}
		err := n.rpc.Call(ctx, MethodDropKey, DropKeyParams{Name: k.Name}, nil)
		if err != nil && !IsErrno(err, unix.ENOKEY) {
			return n.wrap(err, "drop key %s", k.Name)
		}
	}
	return nil
}
