package sim

import (
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The driver's client and the simulator must not share code: one misunderstanding
// of SPDK would hide in both.
func TestSimulatorSharesNoCodeWithTheClient(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range parsed.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if strings.HasPrefix(path, "github.com/holdfast-csi/holdfast/") && !strings.HasPrefix(path, "github.com/holdfast-csi/holdfast/spdk/sim/") {
				t.Errorf("%s imports %s", f.Name(), path)
			}
		}
	}
}
