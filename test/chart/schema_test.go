package chart

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestWrongValuesAreRefusedWithTheirPlace(t *testing.T) {
	node := `{name: a, rpc: "tls://10.0.0.1:9009", nvmf: "10.0.0.1:4420"}`
	for _, c := range []struct{ name, values, want string }{
		{"no SPDK nodes", `{}`, "config.nodes"},
		{"nodes twice", `config: {existingConfigMap: mine, nodes: [` + node + `]}`, "not both"},
		{"nodes in two places", `config: {source: kube, nodes: [` + node + `]}`, "SPDKNode"},
		{"misspelt key", `controler: {replicas: 2}`, "controler"},
		{"misspelt key below", `controller: {replica: 2}`, "replica"},
		{"a number as text", `controller: {replicas: "two"}`, "/controller/replicas"},
		{"no replicas", `controller: {replicas: 0}`, "/controller/replicas"},
		{"a gateway without TLS", `config: {nodes: [{name: a, rpc: "tcp://10.0.0.1:9009", nvmf: "10.0.0.1:4420"}]}`, "/config/nodes/0/rpc"},
		{"a target by name", `config: {nodes: [{name: a, rpc: "tls://10.0.0.1:9009", nvmf: "storage-a:4420"}]}`, "/config/nodes/0/nvmf"},
		{"a node without a name", `config: {nodes: [{rpc: "tls://10.0.0.1:9009", nvmf: "10.0.0.1:4420"}]}`, "name"},
		{"an image with its tag in the name", `images: {holdfast: {repository: "holdfast:v1", tag: v1}}`, "/images/holdfast/repository"},
		{"a parameter that is a number", `storageClasses: [{name: a, parameters: {replicas: 3}}]`, "/storageClasses/0/parameters/replicas"},
		{"a secret without a namespace", `storageClasses: [{name: a, encryptionSecret: {name: key}}]`, "namespace"},
		{"an unknown policy", `storageClasses: [{name: a, reclaimPolicy: Recycle}]`, "/storageClasses/0/reclaimPolicy"},
		{"no machine at once", `node: {maxUnavailable: 0}`, "/node/maxUnavailable"},
		{"certificates for nobody", `{config: {existingConfigMap: mine}, tls: {certManager: {enabled: true}}}`, "gatewayHosts"},
		{"a monitor of nothing", `{config: {existingConfigMap: mine}, metrics: {podMonitor: {enabled: true}}}`, "metrics.enabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := render(parseValues(t, c.values))
			if err == nil || !strings.Contains(err.Error(), c.want) && !strings.Contains(err.Error(), strings.ReplaceAll(strings.TrimPrefix(c.want, "/"), "/", ".")) {
				t.Errorf("want an error with %q, got %v", c.want, err)
			}
		})
	}
}

// property is what the test reads of a JSON schema.
type property struct {
	Description string              `json:"description"`
	Ref         string              `json:"$ref"`
	Properties  map[string]property `json:"properties"`
}

func TestSchemaExplainsEveryValue(t *testing.T) {
	body, err := os.ReadFile(chartDir + "/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		property
		Defs map[string]property `json:"$defs"`
	}
	if err := json.Unmarshal(body, &schema); err != nil {
		t.Fatal(err)
	}
	defaults, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(defaults, &values); err != nil {
		t.Fatal(err)
	}
	var explain func(path string, p property, value any)
	explain = func(path string, p property, value any) {
		if p.Ref != "" {
			p.Properties = schema.Defs[strings.TrimPrefix(p.Ref, "#/$defs/")].Properties
		} else if p.Description == "" && path != "" {
			t.Errorf("%s has no description", path)
		}
		object, isObject := value.(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(object)) {
			sub, known := p.Properties[key]
			if !known && len(p.Properties) > 0 {
				t.Errorf("%s/%s is a default that the schema doesn't know", path, key)
			} else if known {
				explain(path+"/"+key, sub, object[key])
			}
		}
		for key := range p.Properties {
			if _, given := object[key]; isObject && !given && path+key != "global" && p.Ref == "" {
				t.Errorf("%s/%s has no default in values.yaml", path, key)
			}
		}
	}
	explain("", schema.property, values)
}
