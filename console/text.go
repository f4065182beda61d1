package console

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/condition"
)

// outputFlag chooses between a text for people and JSON for programs.
type outputFlag struct{ format string }

func (o *outputFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "text", "text or json")
}

func (o *outputFlag) check() error {
	if o.format != "text" && o.format != "json" {
		return fmt.Errorf("--output %q must be text or json", o.format)
	}
	return nil
}

// print writes v as JSON, or calls text.
func (o *outputFlag) print(out io.Writer, v any, text func(io.Writer)) error {
	if o.format != "json" {
		text(out)
		return nil
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// table prints columns, as wide as their widest cell, with a line of headings if there are any.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, columns ...string) table {
	t := table{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	if len(columns) > 0 {
		t.row(columns...)
	}
	return t
}

func (t table) row(cells ...string) { fmt.Fprintln(t.w, strings.Join(cells, "\t")) }

func (t table) flush() { _ = t.w.Flush() } // as with any other print to the command's output

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// bytesText writes a size in the largest unit that leaves a number above 1, with one decimal where it isn't whole.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + " " + units[unit]
}

// ago writes how long ago something was, in its largest unit.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(max(0, d).Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// isTerminal says whether out is a terminal, where a line can be drawn over.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// barWidth is how many characters a bar has.
const barWidth = 30

// bar draws a percentage.
func bar(percent int) string {
	full := min(max(percent, 0), 100) * barWidth / 100
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "]"
}

func progressBar(percent int) string { return fmt.Sprintf("%s %d %%", bar(percent), percent) }

// tellerText says whose word the state of the SPDK nodes is.
func tellerText(t condition.Teller) string {
	if t.Problem != "" {
		return "SPDK nodes are not asked from here, and what was last told of them may be old: " + t.Problem
	}
	return "SPDK nodes are not asked from here: they are as " + t.Controller + ", the leading controller, tells"
}
