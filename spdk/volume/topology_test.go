package volume

import (
	"strings"
	"testing"
)

func TestEveryNodeNameHasASegment(t *testing.T) {
	seen := map[string]string{}
	for name, kept := range map[string]bool{
		"worker-1": true, "w": true, "a.b_c-d": true, strings.Repeat("x", 63): true,
		strings.Repeat("x", 64): false, "-worker": false, "worker.": false, "work/er": false, "": false,
	} {
		got := NodeSegment(name)
		if !ValidSegment(got) || (got == name) != kept {
			t.Errorf("%q: %q", name, got)
		}
		if other, twice := seen[got]; twice {
			t.Errorf("%q and %q are both %q", name, other, got)
		}
		seen[got] = name
	}
}

func TestAccessIsPartOfWhatIsAskedFor(t *testing.T) {
	parse := func(raw map[string]string) Parameters {
		p, err := ParseParameters(raw)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	anywhere, zone := parse(nil), parse(map[string]string{ParamAccess: "zone"})
	old := anywhere
	old.Access = "" // on record from before there was a choice
	if anywhere.Equal(zone) || !anywhere.Equal(old) || !old.Equal(anywhere) || !anywhere.Equal(parse(map[string]string{ParamAccess: "anywhere"})) {
		t.Error("access is not compared")
	}
	if _, err := ParseParameters(map[string]string{ParamAccess: "node"}); err == nil {
		t.Error("access \"node\" is accepted")
	}
}
