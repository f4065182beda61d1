package faults

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/stack"
)

// result is a line of the table.
type result struct {
	name       string
	stall      time.Duration // longest
	done       int64         // I/O
	errors     int64         // I/O errors
	differing  int64         // bytes
	redundancy time.Duration // from the fault's end; 0 if it was not reached
	crashes    int64         // of targets, that were none of the fault
	problems   []string      // whatever else went wrong
	skipped    bool          // the fault can't be made with these targets
}

// bad says whether the cell has failed.
func (r result) bad() bool { return r.errors > 0 || r.differing > 0 || len(r.problems) > 0 }

func (r result) line() string {
	whole := "not reached"
	if r.redundancy > 0 {
		whole = fmt.Sprintf("%.1f s", r.redundancy.Seconds())
	}
	if r.skipped {
		return fmt.Sprintf("| %s | | | | | | not run: %v |", r.name, stack.ErrUnsupported)
	}
	notes := slices.Clone(r.problems)
	if r.crashes > 0 {
		notes = append(notes, fmt.Sprintf("target processes crashed: %d", r.crashes))
	}
	note := strings.NewReplacer("|", "\\|", "\n", " ").Replace(strings.Join(notes, "; "))
	return fmt.Sprintf("| %s | %.1f s | %d | %d | %d | %s | %s |", r.name, r.stall.Seconds(), r.done, r.errors, r.differing, whole, note)
}

// table is the report.
type table struct {
	ran     string // on what
	results []result
}

// write writes the table in Markdown.
func (t table) write(w io.Writer) error {
	lines := []string{
		"# Fault matrix", "", cmp.Or(t.ran, "Nothing ran."), "",
		"| cell | longest stall | I/O | I/O errors | bytes that differ | fully redundant again after | notes |",
		"|---|---|---|---|---|---|---|",
	}
	for _, r := range t.results {
		lines = append(lines, r.line())
	}
	if _, err := fmt.Fprintln(w, strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}
