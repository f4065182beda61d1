package mount

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
)

// trimmed is how many bytes fstrim(8) says that it has discarded.
var trimmed = regexp.MustCompile(`\((\d+) bytes\) trimmed`)

// Trim discards all that is free in the file system mounted at path, and returns how many bytes that was: 0 for a device that can't discard. A
// file system that is mounted read-only is left alone.
//
// It runs in a process of its own. One that waits in the kernel for a device whose target is gone can't be killed, and must not keep the
// service from ending.
func (m *Mounter) Trim(ctx context.Context, path string) (int64, error) {
	path, at, err := m.mountPoint(path)
	if err != nil || at.ReadOnly {
		return 0, err
	}
	out, err := m.run(ctx, "trim "+path, "fstrim", "--quiet-unsupported", "--verbose", path)
	if err != nil {
		return 0, fmt.Errorf("trim %s: %w", path, err)
	}
	found := trimmed.FindStringSubmatch(out)
	if found == nil {
		return 0, nil
	}
	bytes, err := strconv.ParseInt(found[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("trim %s: fstrim said %q: %w", path, out, err)
	}
	return bytes, nil
}
