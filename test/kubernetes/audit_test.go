package kubernetes_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// auditPolicy has every request noted, without bodies.
const auditPolicy = `{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}`

// audited has the API server note every request, before it is answered, in the file that is returned.
func audited(t *testing.T, e *envtest.Environment) (log string) {
	t.Helper()
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.json"), filepath.Join(dir, "audit.log")
	must(t, os.WriteFile(policy, []byte(auditPolicy), 0o600))
	e.ControlPlane.GetAPIServer().Configure().Set("audit-policy-file", policy).Set("audit-log-path", log).Set("audit-log-mode", "blocking-strict")
	return log
}

// audit is what the accounts have done, and what they were not allowed to: rights, written "resource.group verb", by account.
type audit struct{ used, forbidden map[string]map[string]bool }

// readAudit reads a log of requests (k8s.io/apiserver, pkg/apis/audit/v1).
func readAudit(t *testing.T, log string) audit {
	t.Helper()
	f, err := os.Open(log)
	must(t, err)
	defer f.Close()
	a := audit{used: map[string]map[string]bool{}, forbidden: map[string]map[string]bool{}}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var e struct {
			Verb       string `json:"verb"`
			RequestURI string `json:"requestURI"`
			User       struct {
				Username string `json:"username"`
			} `json:"user"`
			ObjectRef *struct {
				Resource    string `json:"resource"`
				Subresource string `json:"subresource"`
				APIGroup    string `json:"apiGroup"`
			} `json:"objectRef"`
			ResponseStatus struct {
				Code int `json:"code"`
			} `json:"responseStatus"`
		}
		must(t, json.Unmarshal(lines.Bytes(), &e))
		right := e.RequestURI + " " + e.Verb
		if o := e.ObjectRef; o != nil {
			right = strings.TrimSuffix(o.Resource+"/"+o.Subresource, "/") + "." + o.APIGroup + " " + e.Verb
		}
		into := a.used
		if e.ResponseStatus.Code == http.StatusForbidden || e.ResponseStatus.Code == http.StatusUnauthorized {
			into = a.forbidden
		}
		if into[e.User.Username] == nil {
			into[e.User.Username] = map[string]bool{}
		}
		into[e.User.Username][right] = true
	}
	must(t, lines.Err())
	return a
}
