package metrics_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	alertsFile    = "../../deploy/chart/holdfast/files/alerts.yaml"
	dashboardFile = "../../deploy/chart/holdfast/files/dashboard.json"
	alertTests    = "testdata/alerts_test.yaml"
)

// ruleFile is a file of Prometheus rules.
type ruleFile struct {
	Groups []ruleGroup `json:"groups"`
}

type ruleGroup struct {
	Name  string `json:"name"`
	Rules []rule `json:"rules"`
}

type rule struct {
	Alert       string            `json:"alert,omitempty"`
	Record      string            `json:"record,omitempty"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func readAlerts(t *testing.T) []rule {
	t.Helper()
	var file ruleFile
	if err := yaml.UnmarshalStrict(read(t, alertsFile), &file); err != nil {
		t.Fatal(err)
	}
	var rules []rule
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// query is an expression of the dashboard.
type query struct{ panel, expr string }

func readDashboard(t *testing.T) []query {
	t.Helper()
	var dashboard struct {
		Title      string `json:"title"`
		Templating struct {
			List []struct {
				Name string `json:"name"`
				Type string `json:"type"`
			} `json:"list"`
		} `json:"templating"`
		Panels []struct {
			ID         int    `json:"id"`
			Title      string `json:"title"`
			Type       string `json:"type"`
			Datasource struct {
				UID string `json:"uid"`
			} `json:"datasource"`
			Targets []struct {
				Expr       string `json:"expr"`
				Datasource struct {
					UID string `json:"uid"`
				} `json:"datasource"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(read(t, dashboardFile), &dashboard); err != nil {
		t.Fatal(err)
	}
	if first := dashboard.Templating.List[0]; first.Name != "datasource" || first.Type != "datasource" {
		t.Errorf("the first variable is %+v, want the data source", first)
	}
	if first := dashboard.Panels[0]; first.Type != "row" || first.Title != "What is at risk now" {
		t.Errorf("the dashboard begins with %q", first.Title)
	}
	var queries []query
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q has the id %d of another", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && (p.Datasource.UID != "${datasource}" || len(p.Targets) == 0) {
			t.Errorf("panel %q: data source %q, %d queries", p.Title, p.Datasource.UID, len(p.Targets))
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" {
				t.Errorf("panel %q asks %q", p.Title, target.Datasource.UID)
			}
			queries = append(queries, query{p.Title, target.Expr})
		}
	}
	return queries
}

// fromElsewhere are metrics of kube-state-metrics, with their labels.
var fromElsewhere = map[string][]string{
	"kube_deployment_status_replicas_available": {"namespace", "deployment"},
	"kube_daemonset_status_number_unavailable":  {"namespace", "daemonset"},
}

// targetLabels are given to every series by whoever scrapes.
var targetLabels = []string{"instance", "job"}

var (
	matchers    = regexp.MustCompile(`([a-zA-Z_:][\w:]*)?\{([^}]*)\}`)
	matcherName = regexp.MustCompile(`([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"`)
	grouping    = regexp.MustCompile(`\b(?:by|ignoring|on|without)\s*\(([^)]*)\)`)
	ranges      = regexp.MustCompile(`\[[^\]]*\]`)
	identifier  = regexp.MustCompile(`\b[a-zA-Z_:][\w:]*`)
)

// words are what PromQL itself has of identifiers, as far as they are used.
var words = []string{"and", "or", "unless", "offset", "sum", "max", "min", "count", "topk", "sort", "increase", "rate", "time", "vector", "histogram_quantile"}

// checkNames says which metrics and labels of an expression don't exist.
func checkNames(expr string, rows map[string]documented) []string {
	var wrong []string
	metric := func(name string) ([]string, bool) {
		if labels, ok := fromElsewhere[name]; ok {
			return labels, true
		}
		if row, ok := rows[name]; ok && row.kind != "histogram" {
			return row.labels, true
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			base, found := strings.CutSuffix(name, suffix)
			if row, ok := rows[base]; found && ok && row.kind == "histogram" {
				if suffix == "_bucket" {
					return append([]string{"le"}, row.labels...), true
				}
				return row.labels, true
			}
		}
		return nil, false
	}
	for _, m := range matchers.FindAllStringSubmatch(expr, -1) {
		labels, _ := metric(m[1])
		for _, l := range matcherName.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) && !slices.Contains(targetLabels, l[1]) {
				wrong = append(wrong, m[1]+" has no label "+l[1])
			}
		}
	}
	bare := matchers.ReplaceAllString(expr, "$1")
	var known []string
	for _, name := range identifier.FindAllString(grouping.ReplaceAllString(ranges.ReplaceAllString(bare, ""), " "), -1) {
		if slices.Contains(words, name) {
			continue
		}
		labels, ok := metric(name)
		if !ok {
			wrong = append(wrong, "there is no metric "+name)
		}
		known = append(known, labels...)
	}
	for _, g := range grouping.FindAllStringSubmatch(bare, -1) {
		for l := range strings.SplitSeq(g[1], ",") {
			if l = strings.TrimSpace(l); !slices.Contains(known, l) && !slices.Contains(targetLabels, l) {
				wrong = append(wrong, "no metric of the expression has the label "+l)
			}
		}
	}
	return wrong
}

func TestAlertsAndDashboardNameMetricsAndLabelsThatExist(t *testing.T) {
	rows := readDocs(t)
	for _, r := range readAlerts(t) {
		for _, wrong := range checkNames(r.Expr, rows) {
			t.Errorf("alert %s: %s", r.Alert, wrong)
		}
	}
	for _, q := range readDashboard(t) {
		for _, wrong := range checkNames(q.expr, rows) {
			t.Errorf("panel %q: %s", q.panel, wrong)
		}
	}
	for expr, want := range map[string]string{
		`sum by (le) (rate(holdfast_no_such_thing[5m]))`:        "no metric holdfast_no_such_thing",
		`holdfast_csi_call_duration_seconds > 1`:                "no metric holdfast_csi_call_duration_seconds",
		`holdfast_paths{stat="live"}`:                           "no label stat",
		`sum by (node) (holdfast_orphan_lvols)`:                 "has the label node",
		`holdfast_paths_count`:                                  "no metric holdfast_paths_count",
		`abs(holdfast_staged_volume_wanted_replicas offset 1h)`: "no metric abs",
	} {
		if wrong := checkNames(expr, rows); len(wrong) == 0 || !strings.Contains(wrong[0], want) {
			t.Errorf("of %s the test says %q, want %q", expr, wrong, want)
		}
	}
}

func TestEveryAlertIsExplainedAndTried(t *testing.T) {
	runbook := string(read(t, "../../docs/runbook.md"))
	var tests struct {
		Tests []struct {
			PromQL []struct {
				Expr    string `json:"expr"`
				Samples []any  `json:"exp_samples"`
			} `json:"promql_expr_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(read(t, alertTests), &tests); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	name := regexp.MustCompile(`alertname="(\w+)"`)
	for _, test := range tests.Tests {
		for _, q := range test.PromQL {
			alert := name.FindStringSubmatch(q.Expr)[1]
			if len(q.Samples) > 0 {
				fires[alert] = true
			} else {
				quiet[alert] = true
			}
		}
	}
	named := map[string]bool{}
	for _, r := range readAlerts(t) {
		named[r.Alert] = true
		if !strings.Contains(runbook, "\n## "+r.Alert+"\n") || r.Annotations["runbook_url"] != "docs/runbook.md#"+strings.ToLower(r.Alert) {
			t.Errorf("alert %s has the runbook_url %q, and docs/runbook.md may lack it", r.Alert, r.Annotations["runbook_url"])
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
			t.Errorf("alert %s: severity %q, %q", r.Alert, r.Labels["severity"], r.Annotations)
		}
		if !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s doesn't try both that alert %s fires and that it doesn't", alertTests, r.Alert)
		}
	}
	for heading := range strings.Lines(runbook) {
		if alert, ok := strings.CutPrefix(strings.TrimSpace(heading), "## "); ok && !named[alert] {
			t.Errorf("docs/runbook.md has %s, which is no alert", alert)
		}
	}
}

// promtool returns Prometheus' own tool, without which the test is skipped.
func promtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: on Debian it is in the package prometheus")
	}
	return path
}

func TestAlertsFireWhereTheyHaveTo(t *testing.T) {
	tool := promtool(t)
	for _, args := range [][]string{{"check", "rules", alertsFile}, {"test", "rules", alertTests}} {
		if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// dashboardRules writes the queries of the dashboard as rules, each with its number as the label n, and returns their file.
func dashboardRules(t *testing.T) (path string, queries []query) {
	t.Helper()
	variables := strings.NewReplacer("$__rate_interval", "5m", "$__range", "6h", "$instance", ".*")
	group := ruleGroup{Name: "dashboard"}
	queries = readDashboard(t)
	for i, q := range queries {
		group.Rules = append(group.Rules, rule{Record: "dashboard:query", Expr: variables.Replace(q.expr), Labels: map[string]string{"n": strconv.Itoa(i)}})
	}
	return writeYAML(t, ruleFile{Groups: []ruleGroup{group}}), queries
}

func writeYAML(t *testing.T, content any) (path string) {
	t.Helper()
	body, err := yaml.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A query of the dashboard is parsed as the expression of a rule.
func TestQueriesOfTheDashboardAreParsed(t *testing.T) {
	tool := promtool(t)
	path, _ := dashboardRules(t)
	if out, err := exec.CommandContext(t.Context(), tool, "check", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// moment is what the processes of a volume's life said at once, samples by their series.
type moment map[string]string

// wantAnswers has Prometheus' own tool ask the queries of the dashboard, of moments that each lasted ten minutes, and wants data from every one.
func wantAnswers(t *testing.T, moments []moment) {
	tool := promtool(t)
	rules, queries := dashboardRules(t)
	type series struct {
		Series string `json:"series"`
		Values string `json:"values"`
	}
	type answer struct {
		Expr     string `json:"expr"`
		EvalTime string `json:"eval_time"`
		Samples  []any  `json:"exp_samples"`
	}
	var input []series
	all := moment{}
	for _, m := range moments {
		maps.Copy(all, m)
	}
	for name := range all {
		s := series{Series: name}
		for _, m := range moments {
			value, there := m[name]
			number, err := strconv.ParseFloat(value, 64)
			switch {
			case !there:
				s.Values += "_x10 "
			case err != nil:
				t.Fatalf("%s is %q", name, value)
			default:
				s.Values += strings.Repeat(strconv.FormatFloat(number, 'f', -1, 64)+" ", 10)
			}
		}
		input = append(input, s)
	}
	var answers []answer
	for i := range queries {
		answers = append(answers, answer{
			Expr:     fmt.Sprintf(`count(last_over_time(dashboard:query{n="%d"}[1h])) > bool 0`, i),
			EvalTime: fmt.Sprintf("%dm", 10*len(moments)-1), Samples: []any{map[string]any{"labels": "{}", "value": 1}},
		})
	}
	tests := writeYAML(t, map[string]any{
		"rule_files": []string{rules}, "evaluation_interval": "1m",
		"tests": []any{map[string]any{"interval": "1m", "input_series": input, "promql_expr_test": answers}},
	})
	out, err := exec.CommandContext(t.Context(), tool, "test", "rules", tests).CombinedOutput()
	if err == nil {
		return
	}
	for i, q := range queries {
		if bytes.Contains(out, []byte(strconv.Quote(answers[i].Expr))) {
			t.Errorf("panel %q: no data: %s", q.panel, q.expr)
		}
	}
	t.Errorf("promtool: %v\n%s", err, out)
}
