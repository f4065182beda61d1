package random_test

import (
	"bytes"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// headBytes is as much of a LUKS header as tells the key.
const headBytes = 4096

// headerBytes is what encryption takes of a volume for itself; secret is "" of one that isn't encrypted.
func headerBytes(secret string) int64 {
	if secret == "" {
		return 0
	}
	return volume.LUKSHeaderBytes
}

// secrets are what the CO hands to the node service.
func secrets(secret string) map[string]string {
	if secret == "" {
		return nil
	}
	return map[string]string{node.SecretPassphrase: secret}
}

// plain returns what a host reads of a volume or snapshot of which an lvol is given. What was never written is zero in both.
func (w *world) plain(lvol []byte, secret string) []byte {
	w.t.Helper()
	if secret == "" {
		return lvol
	}
	head, below := lvol[:headBytes], lvol[volume.LUKSHeaderBytes:]
	if isZero(head) { // it was never staged
		return below
	}
	content := bytes.Clone(below)
	w.must(userspace.Decrypt(head, []byte(secret), content, 0))
	for at := 0; at < len(content); at += blockBytes {
		if isZero(below[at : at+blockBytes]) {
			clear(content[at : at+blockBytes])
		}
	}
	return content
}

func isZero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

// hasHeader says whether the volume is encrypted and has its header already.
func (v *vol) hasHeader() bool {
	record := v.w.store.peek(v.id())
	return record != nil && record.FileSystem.LUKS == volume.FileSystemMade
}

// learnHead reads the header that an encrypted volume was given when it was staged, from a replica that can be read.
func (v *vol) learnHead() {
	if v.head != nil || v.highest() < staged || !v.hasHeader() {
		return
	}
	record := v.w.store.peek(v.id())
	for _, r := range record.InState(volume.ReplicaInSync) {
		if head, ok := v.w.lvol(r.Node, r.LvStore, record.LvolName(r), headBytes); ok && !isZero(head) {
			v.head = head
			return
		}
	}
}

// unwritten zeroes those of the blocks of an extent, as they were read, that were never written: through the encryption they are noise.
func (v *vol) unwritten(content []byte, extent int) {
	if v.secret == "" {
		return
	}
	off := v.model.offset(extent)
	if !v.block {
		off += mib // the file system's own
	}
	for at := 0; at < len(content); at += blockBytes {
		noise := make([]byte, blockBytes)
		v.w.must(userspace.Decrypt(v.head, []byte(v.secret), noise, off+int64(at)))
		if bytes.Equal(noise, content[at:at+blockBytes]) {
			clear(content[at : at+blockBytes])
		}
	}
}
