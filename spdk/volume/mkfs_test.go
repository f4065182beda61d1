package volume

import (
	"slices"
	"strings"
	"testing"
)

func TestMkfsOptionsThatAddressAnythingElseAreRefused(t *testing.T) {
	for _, c := range []struct{ fsType, options string }{
		{"ext4", "-F"}, {"ext4", "-n"}, {"ext4", "-S"}, {"ext4", "-J device=/dev/sda1"}, {"ext4", "-E offset=4096"}, {"ext4", "-O journal_dev"},
		{"ext4", "-E nodiscard"}, {"ext4", "-d /etc"}, {"ext4", "-m 5"}, {"ext4", "-i"}, {"ext4", "-i /dev/sda"}, {"ext4", "-i 8192 -i 4096"}, {"ext4", "/dev/sda"},
		{"xfs", "-f"}, {"xfs", "-N"}, {"xfs", "-K"}, {"xfs", "-p /etc/passwd"}, {"xfs", "-r rtdev=/dev/sda"}, {"xfs", "-l logdev=/dev/sda"},
		{"xfs", "-d name=/dev/sda"}, {"xfs", "-d file"}, {"xfs", "-d agcount=4,size=1g"}, {"xfs", "-O x"}, {"xfs", "-i -f"},
	} {
		_, err := ParseParameters(map[string]string{ParamFSType: c.fsType, ParamMkfsOptions: c.options})
		if err == nil || !strings.Contains(err.Error(), ParamMkfsOptions) {
			t.Errorf("%s %s: %v", c.fsType, c.options, err)
		}
	}
}

func TestMkfsOptionsArePassedOnAsTheyAre(t *testing.T) {
	p, err := ParseParameters(map[string]string{ParamMkfsOptions: " -O ^64bit,metadata_csum  -i 8192 -E lazy_itable_init=0", ParamReservedBlocks: "3"})
	want := []string{"-O", "^64bit,metadata_csum", "-i", "8192", "-E", "lazy_itable_init=0", "-m", "3"}
	if err != nil || !slices.Equal(p.MkfsArgs("ext4"), want) {
		t.Errorf("%q, %v", p.MkfsArgs("ext4"), err)
	}
	if err := p.CheckMkfs("xfs"); err == nil {
		t.Error("an xfs is made with options of ext4")
	}
	p, err = ParseParameters(map[string]string{ParamFSType: "xfs", ParamMkfsOptions: "-m reflink=1 -s size=4096"})
	if want := []string{"-m", "reflink=1", "-s", "size=4096"}; err != nil || !slices.Equal(p.MkfsArgs("xfs"), want) {
		t.Errorf("%q, %v", p.MkfsArgs("xfs"), err)
	}
	if _, err := ParseParameters(map[string]string{ParamFSType: "xfs", ParamReservedBlocks: "3"}); err == nil {
		t.Error("an xfs reserves blocks")
	}
	for _, percent := range []string{"-1", "51", "5%", "0.5"} {
		if _, err := ParseParameters(map[string]string{ParamReservedBlocks: percent}); err == nil {
			t.Errorf("%s percent are accepted", percent)
		}
	}
}
