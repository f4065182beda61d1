package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	utilexec "k8s.io/utils/exec"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Sentinel errors of encryption.
var (
	// ErrPassphrase: the passphrase opens no key slot of the device.
	ErrPassphrase = errors.New("the passphrase is not the one that the device was encrypted with")
	// ErrStillOpen: a mapping is held by a mount or a process.
	ErrStillOpen = errors.New("the encrypted device is still in use")
)

// LUKSType is what Content.FSType is of a device with a LUKS header.
const LUKSType = "crypto_LUKS"

// MaxPassphraseBytes is the longest passphrase: as much as cryptsetup takes from a terminal, so that people can open a volume by hand.
const MaxPassphraseBytes = 512

// The key derivation of every key slot: Argon2id as RFC 9106 recommends where memory is short (section 4, 64 MiB and 4 lanes), with
// cryptsetup's least number of passes, 4, in place of 3. It is fixed, not measured: a measurement on a busy machine makes a weak slot, and
// one on a large machine a slot that a node service with a memory limit can't open.
const (
	// DefaultKeySlotMiB is the memory of a derivation where Options name none.
	DefaultKeySlotMiB = 64

	argonPasses = "4"
	argonLanes  = "4" // cryptsetup takes no more than there are processors
)

// LUKSOptions say how FormatLUKS encrypts a device.
type LUKSOptions struct {
	Passphrase []byte
	// SectorBytes is the unit of encryption: 512 or 4096, and not more than the device's logical block.
	SectorBytes int
	// Unfinished: it is on record that a header was begun, that nothing was ever written through it, and that the device was blank before.
	// Only then may what a crash left behind be overwritten.
	Unfinished bool
}

// luks are the commands that need a key.
type luks struct {
	// memoryMiB is what a derivation of a new key slot takes.
	memoryMiB int
	// deriving has one token: each derivation takes the memory above, and a node's limit holds for all.
	deriving chan struct{}
	calls    atomic.Uint64
}

// FormatLUKS puts a LUKS2 header with one key slot on device: aes-xts-plain64 with a key of 512 bits, data from
// volume.LUKSHeaderBytes on. As Format does, it answers ErrNotBlank unless the device positively reads blank.
func (m *Mounter) FormatLUKS(ctx context.Context, device string, o LUKSOptions) error {
	if o.SectorBytes != 512 && o.SectorBytes != 4096 {
		return fmt.Errorf("%w: sectors of %d bytes: LUKS2 has 512 or 4096", ErrInvalid, o.SectorBytes)
	}
	if err := m.checkBlank(ctx, device, o.Unfinished); err != nil {
		return fmt.Errorf("encrypt %s: %w", device, err)
	}
	_, err := m.derive(ctx, deviceKey(device), o.Passphrase, func(run func(args ...string) error) (Mapping, error) {
		return Mapping{}, run("luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--hash", "sha256",
			"--pbkdf", "argon2id", "--pbkdf-memory", strconv.Itoa(m.luks.memoryMiB<<10), "--pbkdf-force-iterations", argonPasses, "--pbkdf-parallel", argonLanes,
			"--sector-size", strconv.Itoa(o.SectorBytes), "--offset", strconv.Itoa(volume.LUKSHeaderBytes/512), "--key-file=-", device)
	})
	if err != nil {
		return fmt.Errorf("encrypt %s: %w", device, err)
	}
	return nil
}

// OpenLUKS opens the LUKS2 device as the mapping name, which covers all of it, and passes discards on. It is idempotent: what is open under
// that name on that device stays, whatever the passphrase. A passphrase that opens no key slot is ErrPassphrase.
func (m *Mounter) OpenLUKS(ctx context.Context, device, name string, passphrase []byte, readOnly bool) (Mapping, error) {
	opened, err := m.derive(ctx, mappingKey(name), passphrase, func(run func(args ...string) error) (Mapping, error) {
		if at, open, err := m.mappingOn(device, name, readOnly); err != nil || open {
			return at, err
		}
		args := []string{"open", "--batch-mode", "--type", "luks2", "--allow-discards", "--key-file=-"}
		if readOnly {
			args = append(args, "--readonly")
		}
		if err := run(append(args, device, name)...); err != nil {
			return Mapping{}, err
		}
		at, open, err := m.mappingOn(device, name, readOnly)
		if err == nil && !open {
			err = errors.New("cryptsetup succeeded, but sysfs does not show the mapping")
		}
		return at, err
	})
	if err != nil {
		return Mapping{}, fmt.Errorf("open the encrypted device %s as %s: %w", device, name, err)
	}
	return opened, nil
}

// ResizeLUKS has a mapping that is open cover its device to the end, and reads back that it does; one that does is left alone. It takes
// the passphrase, because the kernel gives the key of an open mapping to nobody. A mapping never gets smaller.
func (m *Mounter) ResizeLUKS(ctx context.Context, name string, passphrase []byte) (Mapping, error) {
	at, open, err := m.Mapping(name)
	if err == nil && !open {
		err = fmt.Errorf("%w: there is no mapping %s", ErrInvalid, name)
	}
	if err != nil {
		return Mapping{}, err
	}
	resized, err := m.derive(ctx, mappingKey(name), passphrase, func(run func(args ...string) error) (Mapping, error) {
		size, err := m.blockBytes(at.Below)
		if err != nil || at.SizeBytes >= size-volume.LUKSHeaderBytes {
			return at, err
		}
		if err := run("resize", "--batch-mode", "--key-file=-", name); err != nil {
			return Mapping{}, err
		}
		now, _, err := m.Mapping(name)
		if err == nil && now.SizeBytes < size-volume.LUKSHeaderBytes {
			err = fmt.Errorf("cryptsetup succeeded, but the mapping has %d bytes and the device %d", now.SizeBytes, size)
		}
		return now, err
	})
	if err != nil {
		return Mapping{}, fmt.Errorf("resize mapping %s on %s: %w", name, at.Below, err)
	}
	return resized, nil
}

// CloseLUKS removes the mapping name, and with it the key in the kernel; absent is success. One that is held is ErrStillOpen. It does no
// I/O, so that it works on a device that is dead: cryptsetup would read the header first.
func (m *Mounter) CloseLUKS(ctx context.Context, name string) error {
	if err := m.jobs.settle(ctx, mappingKey(name)); err != nil {
		return fmt.Errorf("close mapping %s: %w", name, err)
	}
	_, open, err := m.Mapping(name)
	if err != nil || !open {
		return err
	}
	line := "dmsetup remove " + name
	_, runErr := do(ctx, &m.jobs, mappingKey(name), line, func() (struct{}, error) {
		out, err := m.mapperCommand("dmsetup", "remove", name).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
		return struct{}{}, err
	})
	if _, open, err = m.Mapping(name); err != nil {
		return errors.Join(err, runErr)
	}
	if open {
		return fmt.Errorf("close mapping %s: %w: %w", name, ErrStillOpen, runErr)
	}
	return nil
}

func mappingKey(name string) string { return "mapping " + name }

// derive runs commands of cryptsetup that need a key as the one job of a subject, the passphrase on their standard input: arguments and the environment are
// for all to read. Unlike run it joins nothing under way, for that may have another passphrase. One derivation runs at a time; a caller
// whose ctx ends while it waits has run nothing.
func (m *Mounter) derive(ctx context.Context, subject string, passphrase []byte, f func(run func(args ...string) error) (Mapping, error)) (Mapping, error) {
	if len(passphrase) == 0 || len(passphrase) > MaxPassphraseBytes {
		return Mapping{}, fmt.Errorf("%w: a passphrase has 1 to %d bytes, this one %d", ErrInvalid, MaxPassphraseBytes, len(passphrase))
	}
	what := fmt.Sprintf("cryptsetup on %s, call %d", subject, m.luks.calls.Add(1))
	return do(ctx, &m.jobs, subject, what, func() (Mapping, error) {
		select {
		case m.luks.deriving <- struct{}{}:
		case <-ctx.Done():
			return Mapping{}, fmt.Errorf("other encrypted volumes come first: %w", context.Cause(ctx))
		}
		defer func() { <-m.luks.deriving }()
		return f(func(args ...string) error { return m.cryptsetup(passphrase, args...) })
	})
}

// mapperCommand is a command of the device mapper. libdevmapper would wait for the machine's udev by a semaphore, which udev doesn't find
// from outside the container. Device nodes are the kernel's own, /dev/dm-N, and nobody needs those that udev makes.
func (m *Mounter) mapperCommand(name string, args ...string) utilexec.Cmd {
	cmd := m.exec.Command(name, args...)
	cmd.SetEnv(append(os.Environ(), "DM_DISABLE_UDEV=1"))
	return cmd
}

// Exit statuses of cryptsetup(8).
const (
	cryptsetupNoPermission = 2
	cryptsetupNoMemory     = 3
)

func (m *Mounter) cryptsetup(passphrase []byte, args ...string) error {
	cmd := m.mapperCommand("cryptsetup", args...)
	cmd.SetStdin(bytes.NewReader(passphrase))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	said := strings.TrimSpace(string(out))
	switch {
	case errors.Is(err, utilexec.ErrExecutableNotFound):
		return fmt.Errorf("cryptsetup is not installed: %w", err)
	case exitStatus(err) == cryptsetupNoPermission:
		return fmt.Errorf("%w: cryptsetup %s: %s", ErrPassphrase, args[0], said)
	case exitStatus(err) == cryptsetupNoMemory:
		return fmt.Errorf("cryptsetup %s has too little memory; a key slot takes what it was made with, %d MiB by default, one command at a time: %w: %s", args[0], DefaultKeySlotMiB, err, said)
	}
	return fmt.Errorf("cryptsetup %s: %w: %s", strings.Join(args, " "), err, said)
}
