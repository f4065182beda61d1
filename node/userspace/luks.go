package userspace

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// The pretend LUKS header, in the first block; data begin where LUKS2 has them, at volume.LUKSHeaderBytes:
//
//	offset   bytes
//	0        16      magic
//	16       32      salt
//	48       32      the volume's key, combined with the one that is derived from passphrase and salt
//	80       32      HMAC-SHA256 of the magic under the volume's key: only the right passphrase gives a key that fits
const (
	offSalt = 16
	offKey  = offSalt + keyBytes
	offMAC  = offKey + keyBytes

	luksHeadBytes = 4096
	keyBytes      = 32
	// derivations is small: it is the passphrase that tests are about, not its strength.
	derivations = 16
)

var luksMagic = []byte("holdfast-luks-pr")

func isLUKS(head []byte) bool { return bytes.HasPrefix(head, luksMagic) }

// luks is what a mapping is made of.
type luks struct {
	below *disk
	block cipher.Block
	// bytes is how much of the device below the mapping covers; guarded by the mapping's mu.
	bytes int64
}

func derive(passphrase, salt []byte) ([]byte, error) {
	return pbkdf2.Key(sha256.New, string(passphrase), salt, derivations, keyBytes)
}

func keyMAC(key []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(luksMagic)
	return mac.Sum(nil)
}

// newHeader returns a header with a new key behind the passphrase.
func newHeader(passphrase []byte) ([]byte, error) {
	head, key := make([]byte, luksHeadBytes), make([]byte, keyBytes)
	copy(head, luksMagic)
	_, _ = rand.Read(head[offSalt:offKey]) // it never fails
	_, _ = rand.Read(key)
	derived, err := derive(passphrase, head[offSalt:offKey])
	if err != nil {
		return nil, err
	}
	subtle.XORBytes(head[offKey:offMAC], key, derived)
	copy(head[offMAC:], keyMAC(key))
	return head, nil
}

// openHeader returns the key of a header, or mount.ErrPassphrase.
func openHeader(head, passphrase []byte) (cipher.Block, error) {
	if !isLUKS(head) {
		return nil, errors.New("it is no LUKS device")
	}
	key, err := derive(passphrase, head[offSalt:offKey])
	if err != nil {
		return nil, err
	}
	subtle.XORBytes(key, key, head[offKey:offMAC])
	if !hmac.Equal(head[offMAC:offMAC+sha256.Size], keyMAC(key)) {
		return nil, mount.ErrPassphrase
	}
	return aes.NewCipher(key)
}

// Decrypt makes data, which lie at byte off behind the header of a device that begins with head, what a mapping on it reads there. An off is a
// multiple of aes.BlockSize.
func Decrypt(head, passphrase, data []byte, off int64) error {
	block, err := openHeader(head, passphrase)
	if err != nil {
		return err
	}
	(&disk{luks: &luks{block: block}}).transform(data, data, off)
	return nil
}

// FormatLUKS implements node.Encryption with the rules of mount.Mounter.
func (m *Machine) FormatLUKS(ctx context.Context, device string, o mount.LUKSOptions) error {
	return m.perform(OpFormatLUKS, func() error {
		d, err := m.device(device)
		if err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
		c, err := probe(ctx, d)
		switch {
		case err != nil:
			return fmt.Errorf("encrypt: %w", err)
		case !c.Blank && !o.Unfinished:
			return fmt.Errorf("encrypt %s: %w: type %q", device, mount.ErrNotBlank, c.FSType)
		case m.uses(d):
			return fmt.Errorf("encrypt %s: %w: it is mounted or open", device, mount.ErrNotBlank)
		case o.SectorBytes < d.blockSize():
			return fmt.Errorf("%w: sectors of %d bytes on blocks of %d", mount.ErrInvalid, o.SectorBytes, d.blockSize())
		}
		head, err := newHeader(o.Passphrase)
		if err != nil {
			return err
		}
		if err := d.writeAt(ctx, bytes.Repeat([]byte{0xf6}, luksHeadBytes), luksHeadBytes); err != nil {
			return fmt.Errorf("encrypt %s: %w", device, err)
		}
		if err := m.fault(OpFormatLUKS, Midway); err != nil {
			return err
		}
		if err := d.writeAt(ctx, head, 0); err != nil {
			return fmt.Errorf("encrypt %s: %w", device, err)
		}
		return d.flush(ctx)
	})
}

// OpenLUKS implements node.Encryption.
func (m *Machine) OpenLUKS(ctx context.Context, device, name string, passphrase []byte, readOnly bool) (mount.Mapping, error) {
	return do(m, OpOpenLUKS, func() (mount.Mapping, error) {
		d, err := m.device(device)
		if err != nil {
			return mount.Mapping{}, fmt.Errorf("open: %w", err)
		}
		if at, open, _ := m.Mapping(name); open {
			if at.Below != d.name || at.ReadOnly != readOnly {
				return at, fmt.Errorf("open %s as %s: %w: on %s, read-only: %t", device, name, mount.ErrStillOpen, at.Below, at.ReadOnly)
			}
			return at, nil
		}
		block, err := unlock(ctx, d, passphrase)
		if err != nil {
			return mount.Mapping{}, fmt.Errorf("open %s as %s: %w", device, name, err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.usesLocked(d) {
			return mount.Mapping{}, fmt.Errorf("open %s as %s: it is mounted or open", device, name)
		}
		node := fmt.Sprintf("dm-%d", m.made)
		mapping := &disk{
			name: node, path: filepath.Join(m.o.Dir, node), minor: uint32(m.made), readOnly: readOnly,
			luks: &luks{below: d, block: block, bytes: d.sizeBytes() - volume.LUKSHeaderBytes},
		}
		if err := os.WriteFile(mapping.path, []byte("mapping "+name+"\n"), 0o600); err != nil {
			return mount.Mapping{}, fmt.Errorf("make the placeholder of a mapping: %w", err)
		}
		m.made++
		m.mappings[name] = mapping
		return mapping.mapping(name), nil
	})
}

func unlock(ctx context.Context, d *disk, passphrase []byte) (cipher.Block, error) {
	head := make([]byte, luksHeadBytes)
	if err := d.readAt(ctx, head, 0); err != nil {
		return nil, err
	}
	return openHeader(head, passphrase)
}

// ResizeLUKS implements node.Encryption.
func (m *Machine) ResizeLUKS(ctx context.Context, name string, passphrase []byte) (mount.Mapping, error) {
	return do(m, OpResizeLUKS, func() (mount.Mapping, error) {
		m.mu.Lock()
		d := m.mappings[name]
		m.mu.Unlock()
		if d == nil {
			return mount.Mapping{}, fmt.Errorf("%w: there is no mapping %s", mount.ErrInvalid, name)
		}
		if _, err := unlock(ctx, d.luks.below, passphrase); err != nil {
			return mount.Mapping{}, fmt.Errorf("resize mapping %s: %w", name, err)
		}
		d.mu.Lock()
		d.luks.bytes = max(d.luks.bytes, d.luks.below.sizeBytes()-volume.LUKSHeaderBytes)
		d.mu.Unlock()
		return d.mapping(name), nil
	})
}

// CloseLUKS implements node.Encryption: absent is success.
func (m *Machine) CloseLUKS(_ context.Context, name string) error {
	if _, open, _ := m.Mapping(name); !open {
		return nil
	}
	return m.perform(OpCloseLUKS, func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		d := m.mappings[name]
		if d == nil {
			return nil
		}
		if slices.ContainsFunc(m.table, func(e entry) bool { return e.disk == d }) {
			return fmt.Errorf("close mapping %s: %w", name, mount.ErrStillOpen)
		}
		m.dropMappingLocked(name)
		return nil
	})
}

func (m *Machine) dropMappingLocked(name string) {
	d := m.mappings[name]
	delete(m.mappings, name)
	if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.o.Logger.Info("A placeholder of a mapping is left behind", "path", d.path, "err", err.Error())
	}
}

// Mapping implements node.Encryption.
func (m *Machine) Mapping(name string) (at mount.Mapping, open bool, err error) {
	m.mu.Lock()
	d := m.mappings[name]
	m.mu.Unlock()
	if d == nil {
		return mount.Mapping{}, false, nil
	}
	return d.mapping(name), true, nil
}

// Mappings lists the names of all mappings in order.
func (m *Machine) Mappings() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.mappings))
}

func (d *disk) mapping(name string) mount.Mapping {
	return mount.Mapping{Name: name, Path: d.path, Below: d.luks.below.name, SizeBytes: d.sizeBytes(), ReadOnly: d.isReadOnly()}
}

func (d *disk) sizeBytes() int64 {
	if d.luks == nil {
		return d.head.SizeBytes()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.luks.bytes
}

func (d *disk) blockSize() int {
	if d.luks == nil {
		return d.head.BlockSize()
	}
	return d.luks.below.blockSize()
}

func (d *disk) flush(ctx context.Context) error {
	if d.luks == nil {
		return d.head.Flush(ctx)
	}
	return d.luks.below.flush(ctx)
}

func (d *disk) readAt(ctx context.Context, p []byte, off int64) error {
	if d.luks == nil {
		return d.head.ReadAt(ctx, p, off)
	}
	if err := d.readBelow(ctx, p, off); err != nil {
		return err
	}
	d.transform(p, p, off)
	return nil
}

// readBelow reads what a mapping has on the device below, as it is there.
func (d *disk) readBelow(ctx context.Context, p []byte, off int64) error {
	return d.luks.below.readAt(ctx, p, volume.LUKSHeaderBytes+off)
}

func (d *disk) writeAt(ctx context.Context, p []byte, off int64) error {
	if d.luks == nil {
		return d.head.WriteAt(ctx, p, off)
	}
	secret := make([]byte, len(p))
	d.transform(secret, p, off)
	return d.luks.below.writeAt(ctx, secret, volume.LUKSHeaderBytes+off)
}

// transform encrypts or decrypts, which is the same, what is at an offset: each byte by its place. Two things written to one place so give
// each other away, which a real cipher for disks avoids.
func (d *disk) transform(to, from []byte, off int64) {
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[8:], uint64(off/aes.BlockSize))
	cipher.NewCTR(d.luks.block, counter[:]).XORKeyStream(to, from)
}
