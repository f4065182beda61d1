package kube

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// occupy gives every field below v a value of its own.
func occupy(t *testing.T, v reflect.Value, next *int64) {
	t.Helper()
	*next++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(*next, *next).UTC()))
		return
	case uuid.UUID:
		v.Set(reflect.ValueOf(uuid.New()))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			occupy(t, v.Field(i), next)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		occupy(t, v.Elem(), next)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		occupy(t, v.Index(0), next)
		occupy(t, v.Index(1), next)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"key": strconv.FormatInt(*next, 10)}))
	case reflect.String:
		v.SetString(strconv.FormatInt(*next, 10))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*next))
	case reflect.Int, reflect.Int64:
		v.SetInt(*next)
	default:
		t.Fatalf("%s: teach the conversion and this test a field of this type", v.Type())
	}
}

func TestEveryFieldOfARecordComesBack(t *testing.T) {
	var next int64
	var v, back volume.Volume
	occupy(t, reflect.ValueOf(&v).Elem(), &next)
	var spec v1alpha1.VolumeSpec
	if err := fill(&spec, &v); err != nil {
		t.Fatalf("%v: add the field to package v1alpha1 and run make generate", err)
	}
	if err := fill(&back, &spec); err != nil {
		t.Fatal(err)
	}
	if back.ID, back.Revision = v.ID, v.Revision; !reflect.DeepEqual(v, back) {
		t.Errorf("put %+v\ngot %+v", v, back)
	}
	var sn, snBack volume.Snapshot
	occupy(t, reflect.ValueOf(&sn).Elem(), &next)
	var snSpec v1alpha1.SnapshotSpec
	if err := fill(&snSpec, &sn); err != nil {
		t.Fatalf("%v: add the field to package v1alpha1 and run make generate", err)
	}
	if err := fill(&snBack, &snSpec); err != nil {
		t.Fatal(err)
	}
	if snBack.ID, snBack.Revision = sn.ID, sn.Revision; !reflect.DeepEqual(sn, snBack) {
		t.Errorf("put %+v\ngot %+v", sn, snBack)
	}
}

func TestFieldThatOneSideLacksIsAnError(t *testing.T) {
	var less struct{ A int }
	more := struct{ A, B int }{1, 2}
	for _, pair := range [][2]any{{&less, &more}, {&more, &less}} {
		if err := fill(pair[0], pair[1]); err == nil || !strings.Contains(err.Error(), "field B") {
			t.Errorf("got %v", err)
		}
	}
}

func TestRecordThatWasChangedByHandIsNotMisread(t *testing.T) {
	for name, spec := range map[string]v1alpha1.VolumeSpec{
		"UUID":      {UUID: "none", CreatedAt: "2026-01-01T00:00:00Z"},
		"CreatedAt": {UUID: "00000000-0000-0000-0000-000000000001", CreatedAt: "yesterday"},
	} {
		if err := fill(&volume.Volume{}, &spec); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestCRDsAllowEveryState compares the constants of the record's types with the values that the CRDs let through: the API server would refuse a
// state that is on one side only, at the time when it is needed.
func TestCRDsAllowEveryState(t *testing.T) {
	allowed := enums(t, "volumes")
	maps := enums(t, "snapshots")
	for path, values := range maps {
		allowed["snapshot"+path] = values
	}
	states := constants(t)
	for path, typ := range map[string]string{
		".spec.phase": "Phase", ".spec.replicas.state": "ReplicaState", ".spec.publications.mode": "AccessMode", ".spec.parameters.access": "Access",
		".spec.fileSystem.state": "FileSystemState", ".spec.fileSystem.luks": "FileSystemState",
		".spec.parameters.encryption": "Encryption", "snapshot.spec.encryption": "Encryption",
		".spec.snapshot.state": "WishState", ".spec.snapshot.replicas.state": "SnapshotReplicaState",
		"snapshot.spec.phase": "SnapshotPhase", "snapshot.spec.replicas.state": "SnapshotReplicaState",
	} {
		want, got := slices.Sorted(slices.Values(states[typ])), slices.Sorted(slices.Values(allowed[path]))
		if len(want) == 0 || !slices.Equal(want, got) {
			t.Errorf("%s: the constants of %s are %q, the CRD allows %q", path, typ, want, got)
		}
	}
}

// enums returns the values allowed for each field of a CRD, by its path without indices.
func enums(t *testing.T, plural string) map[string][]string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("../../../../deploy/crds", "csi.holdfast.dev_"+plural+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(body, &crd); err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	var walk func(path string, schema map[string]any)
	walk = func(path string, schema map[string]any) {
		if values, ok := schema["enum"].([]any); ok {
			for _, v := range values {
				found[path] = append(found[path], fmt.Sprint(v))
			}
		}
		if items, ok := schema["items"].(map[string]any); ok {
			walk(path, items)
		}
		if properties, ok := schema["properties"].(map[string]any); ok {
			for name, property := range properties {
				walk(path+"."+name, property.(map[string]any))
			}
		}
	}
	walk("", crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
	return found
}

// constants returns the values of the typed string constants of package volume, by their types.
func constants(t *testing.T) map[string][]string {
	t.Helper()
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok || general.Tok != token.CONST {
				continue
			}
			for _, spec := range general.Specs {
				value := spec.(*ast.ValueSpec)
				typ, typed := value.Type.(*ast.Ident)
				if !typed || len(value.Values) != 1 {
					continue
				}
				if literal, ok := value.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
					text, err := strconv.Unquote(literal.Value)
					if err != nil {
						t.Fatal(err)
					}
					found[typ.Name] = append(found[typ.Name], text)
				}
			}
		}
	}
	return found
}
