// Package rules holds the rules of the house that a compiler doesn't: who may import whom, and that packages say what they own.
package rules

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/holdfast-csi/holdfast/"

// forbidden names, for the packages below a folder, what they must not import outside tests, and why.
var forbidden = []struct {
	from, to, why string
}{
	{"controller", module + "node", "controller and node meet only in the record"},
	{"node", module + "controller", "controller and node meet only in the record"},
	{"spdk/volume", "google.golang.org/grpc", "the domain knows no gRPC"},
	{"spdk/timeouts", "google.golang.org/grpc", "the domain knows no gRPC"},
	{"spdk/volume", module + "driver", "the domain knows no driver"},
	{"spdk/sim", module + "spdk\"", "one misunderstanding must not hide in both the client and the simulator"},
	{"spdk/sim", module + "spdk/volume", "the simulator knows SPDK, not its users"},
	{"spdk/sim", module + "spdk/converge", "the simulator knows SPDK, not its users"},
	{"spdk/sim", module + "controller", "the simulator stands in for SPDK alone"},
	{"spdk/sim", module + "node", "the simulator stands in for SPDK alone"},
	{"spdk", module + "controller", "SPDK operations know no CSI"},
	{"spdk", module + "node", "SPDK operations know no CSI"},
	{"controller", module + "spdk/sim", "the product doesn't lean on the simulator"},
	{"console", module + "driver", "the plugin runs where the driver doesn't"},
	{"cmd/kubectl-holdfast", module + "driver", "the plugin runs where the driver doesn't"},
	{"driver", module + "spdk/sim", "the product doesn't lean on the simulator"},
}

func TestImportsKeepTheRules(t *testing.T) {
	checked := 0
	eachFile(t, func(path string) {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", path), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			for _, rule := range forbidden {
				checked++
				if strings.HasPrefix(path, rule.from+"/") && strings.HasPrefix(strings.TrimPrefix(spec.Path.Value, `"`), rule.to) {
					t.Errorf("%s imports %s: %s", path, spec.Path.Value, rule.why)
				}
			}
		}
	})
	if checked == 0 {
		t.Fatal("nothing was checked")
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	documented := map[string]bool{}
	eachFile(t, func(path string) {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../..", path), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Dir(path)
		documented[dir] = documented[dir] || file.Doc != nil
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package in %s has no package comment", dir)
		}
	}
}

// eachFile visits the Go files outside tests, by their paths from the module's root.
func eachFile(t *testing.T, visit func(path string)) {
	t.Helper()
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2 {
			return filepath.SkipDir
		}
		rel, err := filepath.Rel(root, path)
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			visit(rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
