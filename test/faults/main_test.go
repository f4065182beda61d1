//go:build e2e

package faults

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/test/stack"
)

// What is run:
//
//	FAULTS=full    all cells, and every loop as often as it is meant to run; else the selection for CI
//	FAULTS_CELLS   the cells whose names this regular expression matches
//	FAULTS_ROUNDS  how often loops run
//	FAULTS_REPORT  the file that the table is written to, besides standard output
//	FAULTS_LOGS    a directory for the logs of the driver's processes; default is beside the report, else standard error
const (
	// ciCells is the selection for CI, some ten minutes of software emulation together with one round of each loop. What is not in it
	// is among localCells, or hangs in TestRaidHostThatComesBackLateReachesNobody.
	ciCells  = "^(dropped/writing/1-of-3|disk-hung/writing/1-of-2|killed/rebuilding/2-of-3|fenced/reading/1-of-3|flapping/writing/raid-host)$"
	ciRounds = 1
)

func full() bool { return os.Getenv("FAULTS") == "full" }

// cells are the chosen ones.
func cells(t *testing.T) []cell {
	t.Helper()
	expression := ciCells
	if full() {
		expression = ""
	}
	some, err := chosen(cmp.Or(os.Getenv("FAULTS_CELLS"), expression))
	if err != nil {
		t.Fatal(err)
	}
	return some
}

// rounds is how often a loop runs that is meant to run so often.
func rounds(t *testing.T, meant int) int {
	t.Helper()
	if s := os.Getenv("FAULTS_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("FAULTS_ROUNDS=%q: how often loops run, 1 or more", s)
		}
		return n
	}
	if full() {
		return meant
	}
	return ciRounds
}

var (
	// running is the stack that tests share; nil when the next one is to start another.
	running *stack.VM
	report  table
)

func TestMain(m *testing.M) {
	code := stack.Main(m)
	if running != nil {
		running.Close()
	}
	if len(report.results) > 0 {
		if err := publish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// publish writes the table.
func publish() error {
	if err := report.write(os.Stdout); err != nil {
		return err
	}
	path := os.Getenv("FAULTS_REPORT")
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	defer f.Close()
	return report.write(f)
}

// shared returns a stack on which nothing has failed.
func shared(t *testing.T) *stack.VM {
	t.Helper()
	if running != nil {
		return running
	}
	logs := os.Getenv("FAULTS_LOGS")
	if path := os.Getenv("FAULTS_REPORT"); logs == "" && path != "" {
		logs = filepath.Join(filepath.Dir(path), "logs")
	}
	v, err := stack.StartVM(context.WithoutCancel(t.Context()), stack.Options{ReplicaStall: stallBudget, Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	if report.ran, err = title(t.Context(), v.Stack); err != nil {
		t.Fatal(err)
	}
	running = v
	return v
}

// title says on what the cells ran.
func title(ctx context.Context, s *stack.Stack) (string, error) {
	host, err := s.Host.Describe(ctx)
	if err != nil {
		return "", err
	}
	var version string
	if err := s.Targets[0].Do(func(node *spdk.Node) (err error) {
		version, err = node.Version(ctx)
		return err
	}); err != nil {
		return "", err
	}
	return fmt.Sprintf("Targets: %d, %s, %s. Host: %s. Replica stall budget: %s.", len(s.Targets), s.Targets[0].Describe(), version, host, stallBudget), nil
}

// enter enters a result. After a failure the next test has a stack of its own.
func enter(t *testing.T, r result) {
	t.Helper()
	report.results = append(report.results, r)
	t.Log(r.line())
	if r.bad() {
		if log, err := running.Guest(t.Context(), "dmesg | tail -n 30"); err == nil {
			t.Logf("end of the guest's kernel log:\n%s", log)
		}
		running.Close()
		running = nil
		t.Fail()
	}
}

func TestMatrix(t *testing.T) {
	for _, c := range cells(t) {
		t.Run(c.String(), func(t *testing.T) {
			v := shared(t)
			r := c.run(t.Context(), v.Stack, t.Logf)
			if err := v.LeftInGuest(t.Context()); err != nil && !r.bad() {
				r.problems = append(r.problems, err.Error())
			}
			enter(t, r)
		})
	}
}
