package chart

import (
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	root     = "../.."
	chartDir = root + "/deploy/chart/holdfast"
)

// cases are the files of testdata/values of which a golden render is kept.
var cases = []string{"default", "minimal", "full"}

// readValues reads testdata/values/name.yaml.
func readValues(t *testing.T, name string) map[string]any {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata/values", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return parseValues(t, string(body))
}

func parseValues(t *testing.T, body string) map[string]any {
	t.Helper()
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(body), &values); err != nil {
		t.Fatal(err)
	}
	return values
}

func render(values map[string]any) (string, error) { return Render(chartDir, values) }

func mustRender(t *testing.T, values map[string]any) string {
	t.Helper()
	out, err := render(values)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
