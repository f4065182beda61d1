package chart

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// granted returns the rules that the service account ending in suffix has, of the cluster and of the namespace.
func granted(t *testing.T, values, suffix string) (rules []rbacv1.PolicyRule) {
	t.Helper()
	_, objects := decode(t, mustRender(t, readValues(t, values)))
	roles := map[string][]rbacv1.PolicyRule{}
	for _, object := range objects {
		switch r := object.(type) {
		case *rbacv1.ClusterRole:
			roles["ClusterRole "+r.Name] = r.Rules
		case *rbacv1.Role:
			roles["Role "+r.Name] = r.Rules
		}
	}
	bind := func(ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		for _, s := range subjects {
			if s.Namespace != namespace {
				t.Errorf("%s is bound to namespace %q", ref.Name, s.Namespace)
			}
			if strings.HasSuffix(s.Name, suffix) {
				given, known := roles[ref.Kind+" "+ref.Name]
				if !known {
					t.Errorf("%s %s doesn't exist", ref.Kind, ref.Name)
				}
				rules = append(rules, given...)
			}
		}
	}
	for _, object := range objects {
		switch b := object.(type) {
		case *rbacv1.ClusterRoleBinding:
			bind(b.RoleRef, b.Subjects)
		case *rbacv1.RoleBinding:
			bind(b.RoleRef, b.Subjects)
		}
	}
	return rules
}

func TestNobodyMayReadSecretsOrDoEverything(t *testing.T) {
	for _, name := range cases {
		for _, account := range []string{"-controller", "-node"} {
			for _, rule := range granted(t, name, account) {
				for _, list := range [][]string{rule.APIGroups, rule.Resources, rule.Verbs} {
					if slices.Contains(list, "*") {
						t.Errorf("%s: %s has %+v", name, account, rule)
					}
				}
				for _, resource := range []string{"secrets", "configmaps", "pods/exec", "serviceaccounts/token"} {
					if slices.Contains(rule.Resources, resource) {
						t.Errorf("%s: %s may %v %s", name, account, rule.Verbs, resource)
					}
				}
				for _, verb := range []string{"escalate", "bind", "impersonate", "deletecollection"} {
					if slices.Contains(rule.Verbs, verb) {
						t.Errorf("%s: %s has %+v", name, account, rule)
					}
				}
			}
		}
	}
}

func TestRightsOfSidecarsThatAreLeftOutAreLeftOut(t *testing.T) {
	for _, rule := range granted(t, "minimal", "-controller") {
		for _, resource := range []string{"volumesnapshotcontents", "volumesnapshots", "persistentvolumeclaims/status"} {
			if slices.Contains(rule.Resources, resource) {
				t.Errorf("%+v is for a sidecar that isn't there", rule)
			}
		}
	}
}

// declared reads which rights a function of the driver's permissions.go returns, as "resource.group verb". Its rules are calls of own, for the
// driver's own group, and of rule, whose first argument is the group.
func declared(t *testing.T, function string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), root+"/spdk/volume/stores/kube/permissions.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var rights []string
	read := func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		var words []string
		for _, argument := range call.Args {
			if literal, ok := argument.(*ast.BasicLit); ok {
				word, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				words = append(words, word)
			}
		}
		switch name, _ := call.Fun.(*ast.Ident); {
		case name != nil && name.Name == "own":
			words = append([]string{"csi.holdfast.dev"}, words...)
		case name == nil || name.Name != "rule":
			return true
		}
		for _, verb := range words[2:] {
			rights = append(rights, words[1]+"."+words[0]+" "+verb)
		}
		return true
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == function {
			ast.Inspect(f.Body, read)
		}
	}
	if len(rights) == 0 {
		t.Fatalf("no rights in %s", function)
	}
	return rights
}

// own returns the rights of the roles that are named like the component: those of the driver itself.
func own(t *testing.T, component string) []string {
	t.Helper()
	_, objects := decode(t, mustRender(t, readValues(t, "full")))
	rights := map[string]bool{}
	add := func(name string, rules []rbacv1.PolicyRule) {
		if name != "holdfast-"+component {
			return
		}
		for _, rule := range rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						rights[resource+"."+group+" "+verb] = true
					}
				}
			}
		}
	}
	for _, object := range objects {
		switch r := object.(type) {
		case *rbacv1.ClusterRole:
			add(r.Name, r.Rules)
		case *rbacv1.Role:
			add(r.Name, r.Rules)
		}
	}
	return slices.Sorted(maps.Keys(rights))
}

func TestDriverHasTheRightsThatItDeclaresAndNoOthers(t *testing.T) {
	for component, function := range map[string]string{"controller": "ControllerPermissions", "node": "NodePermissions", "operator": "OperatorPermissions"} {
		t.Run(component, func(t *testing.T) {
			want := declared(t, function)
			slices.Sort(want)
			if got := own(t, component); !slices.Equal(got, want) {
				t.Errorf("the chart grants\n%s\nthe driver declares\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}
