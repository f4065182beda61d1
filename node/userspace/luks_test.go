package userspace_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestMappingTransformsWhatIsWrittenAndChecksThePassphrase(t *testing.T) {
	b := newBench(t, nil)
	b.medium.data = make([]byte, volume.LUKSHeaderBytes+8<<20)
	ctx := t.Context()
	device, err := b.Connect(ctx, b.connect)
	b.must(err)
	right, wrong := []byte("right"), []byte("wrong")
	b.must(b.FormatLUKS(ctx, device, mount.LUKSOptions{Passphrase: right, SectorBytes: 4096}))
	if c, err := b.Probe(ctx, device); err != nil || c.FSType != mount.LUKSType {
		t.Errorf("it holds %+v, %v", c, err)
	}
	if _, err := b.OpenLUKS(ctx, device, "m", wrong, false); !errors.Is(err, mount.ErrPassphrase) {
		t.Errorf("with a wrong passphrase: %v", err)
	}
	at, err := b.OpenLUKS(ctx, device, "m", right, false)
	b.must(err)
	if c, err := b.Probe(ctx, at.Path); err != nil || !c.Blank || at.SizeBytes != 8<<20 {
		t.Errorf("it holds %+v in %d bytes, %v", c, at.SizeBytes, err)
	}
	want, got := bytes.Repeat([]byte("plain text here "), 256), make([]byte, 4096)
	write := func(f *userspace.File, err error) {
		t.Helper()
		b.must(err)
		b.must(f.WriteAt(ctx, want, 8192))
		b.must(f.ReadAt(ctx, got, 8192))
	}
	write(b.Open(at.Path))
	if !bytes.Equal(got, want) || bytes.Contains(b.medium.data, want[:16]) {
		t.Error("what was written doesn't read back, or is on the medium as it was written")
	}
	below := bytes.Clone(b.medium.data[volume.LUKSHeaderBytes+8192:][:len(want)])
	b.must(userspace.Decrypt(b.medium.data[:4096], right, below, 8192))
	if err := userspace.Decrypt(b.medium.data[:4096], wrong, below, 8192); !bytes.Equal(below, want) || !errors.Is(err, mount.ErrPassphrase) {
		t.Errorf("what is below isn't that when it is decrypted, or a wrong passphrase does it (%v)", err)
	}
	if inUse, err := b.InUse(ctx, device); !inUse || err != nil {
		t.Errorf("the device is in use: %t, %v", inUse, err)
	}

	b.must(b.Disconnect(ctx, testNQN)) // the mapping stays, dead
	if f, err := b.Open(at.Path); err != nil || f.ReadAt(ctx, got, 8192) == nil {
		t.Errorf("a mapping on a device that is gone can be read (%v)", err)
	}
	b.must(b.CloseLUKS(ctx, "m"))
	device, err = b.Connect(ctx, b.connect)
	b.must(err)
	at, err = b.OpenLUKS(ctx, device, "m", right, false)
	b.must(err)
	clear(got)
	f, err := b.Open(at.Path)
	b.must(err)
	b.must(f.ReadAt(ctx, got, 8192))
	if !bytes.Equal(got, want) {
		t.Error("what was written is gone")
	}
	b.must(b.CloseLUKS(ctx, "m"))
	if open := b.Mappings(); len(open) > 0 {
		t.Errorf("open are %v", open)
	}
}
