package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	chartDir  = root + "/deploy/chart/holdfast"
	namespace = "holdfast"
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

// render returns the objects that `helm template holdfast` makes of the values, in the order of the templates' names, workloads last.
func render(values map[string]any) (string, error) {
	c, err := loader.Load(chartDir)
	if err != nil {
		return "", err
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = common.KubeVersion{Version: "v1.36.0", Major: "1", Minor: "36"}
	options := common.ReleaseOptions{Name: "holdfast", Namespace: namespace, Revision: 1, IsInstall: true}
	full, err := util.ToRenderValues(c, values, options, capabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(c, full)
	if err != nil {
		return "", err
	}
	var names []string
	for name := range files {
		if strings.HasSuffix(name, ".yaml") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var first, last strings.Builder
	for _, name := range names {
		for _, object := range documents(files[name]) {
			b := &first
			if workload.MatchString(object) {
				b = &last
			}
			fmt.Fprintf(b, "---\n# Source: %s\n%s\n", name, object)
		}
	}
	return first.String() + last.String(), nil
}

// workload is in what can't start without the others.
var workload = regexp.MustCompile(`(?m)^kind: (Deployment|DaemonSet)$`)

func mustRender(t *testing.T, values map[string]any) string {
	t.Helper()
	out, err := render(values)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// documents splits a YAML stream; documents of comments alone are left out.
func documents(stream string) []string {
	var docs []string
	for doc := range strings.SplitSeq("\n"+stream, "\n---") {
		doc = strings.TrimSpace(doc)
		var parsed any
		if yaml.Unmarshal([]byte(doc), &parsed) == nil && parsed == nil {
			continue
		}
		docs = append(docs, doc)
	}
	return docs
}
