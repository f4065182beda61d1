// Package docs holds the documentation to the programs: every command that a page shows must be one.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var (
	span = regexp.MustCompile("`([^`\n]+)`")
	// comment and further are what a line of a shell has after the command.
	comment = regexp.MustCompile(`\s+#.*$`)
	further = regexp.MustCompile(`\s*(\||&&|;|>|\.\.\.).*$`)
)

// Check has every command of a program that README.md and the pages in docs show parsed by it, in blocks and in the text. root makes the program's
// commands anew.
func Check(t *testing.T, program string, root func() *cobra.Command) {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, page := range append(pages, "../../README.md", "../../CHANGELOG.md") {
		body, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, shown := range commands(string(body), program) {
			for _, command := range alternatives(shown) {
				checked++
				if err := parse(root(), strings.Fields(command)); err != nil {
					t.Errorf("%s shows `%s %s`: %v", filepath.Base(page), program, command, err)
				}
			}
		}
	}
	if checked == 0 {
		t.Errorf("no page shows a command of %s", program)
	}
}

// commands returns what follows the program's name in each command that a page shows. In a table | is written as \|.
func commands(page, program string) []string {
	var found []string
	inBlock, open := false, ""
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			inBlock = !inBlock
			continue
		}
		if !inBlock {
			for _, m := range span.FindAllStringSubmatch(line, -1) {
				if rest, ok := strings.CutPrefix(strings.ReplaceAll(m[1], `\|`, "|"), program+" "); ok {
					found = append(found, rest)
				}
			}
			continue
		}
		line = strings.TrimPrefix(open+line, "$ ")
		if open = ""; strings.HasSuffix(line, `\`) {
			open = strings.TrimSuffix(line, `\`)
			continue
		}
		if rest, ok := strings.CutPrefix(line, program+" "); ok {
			found = append(found, rest)
		}
	}
	return found
}

// alternatives returns the commands that one like "volume list|show [--watch]" stands for, without what follows them in a shell.
func alternatives(shown string) []string {
	all := []string{""}
	shown = strings.NewReplacer("[", "", "]", "").Replace(shown)
	shown = comment.ReplaceAllString(strings.ReplaceAll(shown, " | ", " ; "), "")
	for word := range strings.FieldsSeq(further.ReplaceAllStringFunc(shown, afterShell)) {
		var next []string
		for _, before := range all {
			for choice := range strings.SplitSeq(word, "|") {
				next = append(next, strings.TrimSpace(before+" "+choice))
			}
		}
		all = next
	}
	return all
}

// afterShell leaves the alternatives of a word, which have no space before them, and cuts all else.
func afterShell(s string) string {
	if strings.HasPrefix(s, "|") {
		return s
	}
	return ""
}

// parse says what is wrong with a command. A flag at its end may lack what it takes, and a command its arguments: the text may only name them.
func parse(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if n := len(rest); n > 0 && cmd.Flag(strings.TrimPrefix(rest[n-1], "--")) != nil {
		rest = rest[:n-1]
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if left := cmd.Flags().Args(); len(left) > 0 {
		return cmd.ValidateArgs(left)
	}
	return nil
}
