package chart

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

// namespace is that of the release.
const namespace = "holdfast"

// Render returns the objects that `helm template holdfast` makes of the values with the chart in dir, in the order of the templates' names, workloads last.
func Render(dir string, values map[string]any) (string, error) {
	c, err := loader.Load(dir)
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
