package metrics_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// documented is a row of the tables in docs/metrics.md.
type documented struct {
	kind   string
	labels []string
	// controller and node say which processes tell it.
	controller, node bool
}

// readDocs returns the metrics of docs/metrics.md by their names.
func readDocs(t *testing.T) map[string]documented {
	t.Helper()
	body, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]documented{}
	for line := range strings.Lines(string(body)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 7 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`holdfast_") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		row := documented{kind: cells[2], controller: cells[4] != "node", node: cells[4] != "controller"}
		for l := range strings.SplitSeq(cells[3], ",") {
			if l = strings.Trim(strings.TrimSpace(l), "`"); l != "" {
				row.labels = append(row.labels, l)
			}
		}
		slices.Sort(row.labels)
		rows[strings.Trim(cells[1], "`")] = row
	}
	return rows
}

// wantDocumented compares what was scraped of a controller and of a node service with docs/metrics.md.
func wantDocumented(t *testing.T, controller, node map[string]*family) {
	t.Helper()
	rows := readDocs(t)
	for name, row := range rows {
		for process, f := range map[string]*family{"controller": controller[name], "node service": node[name]} {
			expected := process == "controller" && row.controller || process == "node service" && row.node
			switch {
			case expected && f == nil:
				t.Errorf("docs/metrics.md has %s, and the %s doesn't tell it", name, process)
			case !expected && f != nil:
				t.Errorf("the %s tells %s, which docs/metrics.md has of another process", process, name)
			case f != nil && f.kind != row.kind:
				t.Errorf("docs/metrics.md calls %s a %s, it is a %s", name, row.kind, f.kind)
			case f != nil && !slices.Equal(slices.Sorted(maps.Keys(f.labels)), row.labels):
				t.Errorf("docs/metrics.md gives %s the labels %q, it has %q", name, row.labels, slices.Sorted(maps.Keys(f.labels)))
			}
		}
	}
	for _, families := range []map[string]*family{controller, node} {
		for name := range families {
			if _, ok := rows[name]; !ok {
				t.Errorf("docs/metrics.md lacks %s", name)
			}
		}
	}
}

var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]+)"`)

// described returns the names of all metrics that are registered.
func described(registry *prometheus.Registry) map[string]bool {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		registry.Describe(descs)
	}()
	names := map[string]bool{}
	for d := range descs {
		names[descText.FindStringSubmatch(d.String())[1]] = true
	}
	return names
}
