package spdk

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// schema is the part of SPDK's description of its methods that the test reads.
type schema struct {
	Enums []struct {
		Name   string
		Fields []struct{ Name string }
	}
	Objects []struct {
		Name   string
		Fields []schemaField
	}
	Arrays []struct {
		Name     string
		ItemType string `json:"item_type"`
		Class    string
	}
	Methods []struct {
		Name   string
		Params []schemaField
	}
}

type schemaField struct {
	Name, Type, Class    string
	Required, Deprecated bool
}

func readSchema(t *testing.T) schema {
	t.Helper()
	text, err := os.ReadFile("testdata/schema.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := yaml.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParametersAreThoseOfSPDKsSchema(t *testing.T) {
	s := readSchema(t)
	described := map[string][]schemaField{}
	for _, m := range s.Methods {
		described[m.Name] = m.Params
	}
	for _, m := range methods {
		fields, ok := described[m.name]
		if !ok {
			t.Errorf("%s: SPDK's schema does not have it", m.name)
			continue
		}
		for _, problem := range s.compare(reflect.TypeOf(m.params), fields) {
			t.Errorf("%s: %s", m.name, problem)
		}
	}
}

func TestSchemaComparisonFindsWhatIsWrong(t *testing.T) {
	s := readSchema(t)
	type wrong struct {
		Name       int    `json:"name"`       // a string
		RaidLevel  string `json:"raid_lvl"`   // no such parameter
		BaseBdevs  string `json:"base_bdevs"` // an array
		Superblock bool   `json:"superblock"`
		// raid_level is required and missing
	}
	for _, m := range s.Methods {
		if m.Name != "bdev_raid_create" {
			continue
		}
		if problems := s.compare(reflect.TypeFor[wrong](), m.Params); len(problems) != 4 {
			t.Errorf("got %d problems: %q", len(problems), problems)
		}
	}
}

// compare lists how a Go struct differs from the fields that SPDK takes.
func (s schema) compare(params reflect.Type, fields []schemaField) (problems []string) {
	given := map[string]bool{}
	for i := range params.NumField() {
		f := params.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		at := -1
		for j := range fields {
			if fields[j].Name == name {
				at = j
			}
		}
		if at < 0 {
			problems = append(problems, fmt.Sprintf("field %s: SPDK has no parameter %q", f.Name, name))
			continue
		}
		given[name] = true
		want := fields[at]
		if want.Required && options == "omitempty" {
			problems = append(problems, fmt.Sprintf("parameter %s is required and may be left out", name))
		}
		if want.Deprecated {
			problems = append(problems, fmt.Sprintf("parameter %s is deprecated", name))
		}
		problems = append(problems, s.fits(f.Type, want)...)
	}
	for _, f := range fields {
		if f.Required && !given[f.Name] {
			problems = append(problems, fmt.Sprintf("required parameter %s is missing", f.Name))
		}
	}
	return problems
}

// fits checks one parameter's type.
func (s schema) fits(have reflect.Type, want schemaField) []string {
	kinds := map[string][]reflect.Kind{
		"string":  {reflect.String},
		"uuid":    {reflect.String},
		"boolean": {reflect.Bool},
		"enum":    {reflect.String},
		"uint8":   {reflect.Int, reflect.Uint8},
		"uint16":  {reflect.Int, reflect.Uint16},
		"uint32":  {reflect.Int, reflect.Uint32},
		"int32":   {reflect.Int, reflect.Int32},
		"uint64":  {reflect.Int64, reflect.Uint64},
		"object":  {reflect.Struct},
		"array":   {reflect.Slice},
	}
	for _, kind := range kinds[want.Type] {
		if have.Kind() != kind {
			continue
		}
		switch want.Type {
		case "object":
			for _, o := range s.Objects {
				if o.Name == want.Class {
					return s.compare(have, o.Fields)
				}
			}
			return []string{"object class " + want.Class + " is not in the schema"}
		case "array":
			for _, a := range s.Arrays {
				if a.Name == want.Class {
					return s.fits(have.Elem(), schemaField{Name: want.Name + "[]", Type: a.ItemType, Class: a.Class})
				}
			}
			return []string{"array class " + want.Class + " is not in the schema"}
		}
		return nil
	}
	return []string{fmt.Sprintf("parameter %s is a %s of SPDK and a %s here", want.Name, want.Type, have)}
}

func TestEnumValuesAreThoseOfSPDKsSchema(t *testing.T) {
	values := map[string][]string{
		"nvme_ana_state":           {string(ANAOptimized), string(ANANonOptimized), string(ANAInaccessible)},
		"bdev_raid_state":          {RaidOnline, RaidConfiguring, RaidOffline, "all"},
		"bdev_raid_level":          {"raid1"},
		"bdev_nvme_multipath_mode": {"disable"},
		"bdev_nvme_timeout_action": {"none", "reset", "abort"},
	}
	s := readSchema(t)
	for class, wanted := range values {
		has := map[string]bool{}
		for _, e := range s.Enums {
			if e.Name == class {
				for _, f := range e.Fields {
					has[f.Name] = true
				}
			}
		}
		for _, value := range wanted {
			if !has[value] {
				t.Errorf("enum %s of SPDK has no value %q", class, value)
			}
		}
	}
}
