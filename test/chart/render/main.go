// Command render prints what `helm template holdfast` makes of the chart, for tests that install it on a machine without Helm.
//
//	render CHART VALUES
package main

import (
	"fmt"
	"os"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/test/chart"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: render CHART VALUES")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(dir, file string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(body, &values); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	out, err := chart.Render(dir, values)
	if err != nil {
		return err
	}
	_, err = fmt.Print(out)
	return err
}
