package volume

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxReservedPercent is the most that mkfs.ext4 reserves (mke2fs(8), -m).
const maxReservedPercent = 50

// mkfsOption is an option of mkfs with a value. Only those listed are passed on: nothing that forces, only pretends, looks at a file or has
// another device hold a part of the file system.
type mkfsOption struct {
	flag string
	// except are names of sub-options, before a "=" or alone, that are refused.
	except []string
}

var mkfsOptions = map[string][]mkfsOption{
	"ext4": {
		{flag: "-b"}, {flag: "-C"}, {flag: "-E", except: []string{"offset", "test_fs", "revision", "discard", "nodiscard", "root_owner", "root_perms"}}, {flag: "-g"},
		{flag: "-G"}, {flag: "-i"}, {flag: "-I"}, {flag: "-J", except: []string{"device", "location"}}, {flag: "-N"},
		{flag: "-O", except: []string{"journal_dev"}}, {flag: "-T"},
	},
	"xfs": {
		{flag: "-b"}, {flag: "-d", except: []string{"file", "name", "size", "cowextsize", "rtinherit"}}, {flag: "-i"},
		{flag: "-l", except: []string{"logdev", "file", "name", "internal"}}, {flag: "-m", except: []string{"uuid"}}, {flag: "-n"}, {flag: "-s"},
	},
}

var mkfsValue = regexp.MustCompile(`^[A-Za-z0-9_^][A-Za-z0-9_^=,.:%+-]*$`)

// CheckMkfs says whether a file system of that type can be made with the options that the parameters ask for.
func (p Parameters) CheckMkfs(fsType string) error {
	refuse := func(what string) error {
		flags := make([]string, 0, len(mkfsOptions[fsType]))
		for _, o := range mkfsOptions[fsType] {
			flags = append(flags, o.flag)
		}
		return fmt.Errorf("parameter %s=%q: %s; for %s there may be, each followed by a space and its value, %s", ParamMkfsOptions, strings.Join(p.MkfsOptions, " "), what, fsType, strings.Join(flags, ", "))
	}
	if p.ReservedBlocksPercent > 0 && fsType != "ext4" {
		return fmt.Errorf("parameter %s=\"%d\": only ext4 reserves blocks, and the file system is %s", ParamReservedBlocks, p.ReservedBlocksPercent, fsType)
	}
	for i := 0; i < len(p.MkfsOptions); i += 2 {
		flag := p.MkfsOptions[i]
		at := slices.IndexFunc(mkfsOptions[fsType], func(o mkfsOption) bool { return o.flag == flag })
		switch {
		case at < 0:
			return refuse(fmt.Sprintf("option %q is not passed on", flag))
		case slices.Contains(p.MkfsOptions[:i], flag):
			return refuse(fmt.Sprintf("option %s is given twice", flag))
		case i+1 == len(p.MkfsOptions) || !mkfsValue.MatchString(p.MkfsOptions[i+1]):
			return refuse(fmt.Sprintf("option %s has no value, or one with other characters than letters, digits and _^=,.:%%+-", flag))
		}
		for _, sub := range strings.Split(p.MkfsOptions[i+1], ",") {
			name, _, _ := strings.Cut(sub, "=")
			if slices.Contains(mkfsOptions[fsType][at].except, name) {
				return refuse(fmt.Sprintf("%s of option %s is not passed on", name, flag))
			}
		}
	}
	return nil
}

// MkfsArgs returns the further arguments of mkfs for a file system of that type.
func (p Parameters) MkfsArgs(fsType string) []string {
	args := slices.Clone(p.MkfsOptions)
	if fsType == "ext4" && p.ReservedBlocksPercent > 0 {
		args = append(args, "-m", strconv.Itoa(p.ReservedBlocksPercent))
	}
	return args
}
