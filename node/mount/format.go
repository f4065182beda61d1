package mount

import (
	"context"
	"fmt"
	"slices"
)

// FormatOptions say how to format.
type FormatOptions struct {
	FSType string   // ext4 or xfs
	Args   []string // further arguments for mkfs
	// Unfinished: it is on record that a mkfs of this volume began, that none has
	// ended, and that it was blank before. Only then may what a crash left behind
	// be overwritten.
	Unfinished bool
}

// Format makes a file system on device. It probes first, whatever the caller
// has done, and answers ErrNotBlank unless the device positively reads blank.
// That the volume was never formatted before is for the caller to know.
func (m *Mounter) Format(ctx context.Context, device string, o FormatOptions) error {
	name, args := "mkfs."+o.FSType, []string{}
	switch o.FSType {
	case Ext4:
		// -F: do not ask. -m0: no space that only root may use, unless asked for. The
		// device reads zero, so there is nothing to discard.
		args = append(args, "-q", "-F", "-m0")
		o.Args = withNoDiscard(o.Args)
	case XFS:
		args = append(args, "-q", "-K")
		if o.Unfinished {
			args = append(args, "-f") // else mkfs itself refuses a device with a signature
		}
	default:
		return fmt.Errorf("%w: file system type %q: want ext4 or xfs", ErrInvalid, o.FSType)
	}
	if slices.Contains(o.Args, "") {
		return fmt.Errorf("%w: empty argument for %s", ErrInvalid, name)
	}
	if err := m.checkBlank(ctx, device, o.Unfinished); err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	args = append(append(args, o.Args...), device)
	if _, err := m.run(ctx, deviceKey(device), name, args...); err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	return nil
}

// checkBlank answers ErrNotBlank unless device is in use by nothing and positively reads blank, or is known to hold what was left unfinished.
func (m *Mounter) checkBlank(ctx context.Context, device string, unfinished bool) error {
	c, err := m.Probe(ctx, device)
	if err != nil {
		return err
	}
	if !c.Blank && !unfinished {
		return fmt.Errorf("%w: type %q, partition table %q", ErrNotBlank, c.FSType, c.PartTable)
	}
	inUse, err := m.InUse(ctx, device)
	if err == nil && inUse {
		err = fmt.Errorf("%w: it is mounted, open or otherwise in use", ErrNotBlank)
	}
	return err
}

// withNoDiscard adds to the extended options of mkfs.ext4, of which the last list counts, that nothing is to be discarded.
func withNoDiscard(args []string) []string {
	args = slices.Clone(args)
	if at := slices.Index(args, "-E"); at >= 0 && at+1 < len(args) {
		args[at+1] += ",nodiscard"
		return args
	}
	return append(args, "-E", "nodiscard")
}

// Exit status bits of e2fsck(8): everything was clean or was corrected, the
// second of which may want a reboot where the root file system was checked.
const fsckCorrected = 1 | 2

// check repairs an ext4 file system as far as that is safe without asking. It
// does nothing where the file system is mounted.
func (m *Mounter) check(ctx context.Context, device string, major, minor int) error {
	all, err := m.list()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(e Mounted) bool { return e.Major == major && e.Minor == minor }) {
		return nil
	}
	_, err = m.run(ctx, deviceKey(device), "e2fsck", "-p", device)
	switch status := exitStatus(err); {
	case err == nil, status > 0 && status&^fsckCorrected == 0:
		return nil
	case status > 0 && status&4 != 0:
		return fmt.Errorf("check %s: %w: run e2fsck on it by hand: %w", device, ErrCorrupt, err)
	}
	return fmt.Errorf("check %s: %w", device, err)
}
