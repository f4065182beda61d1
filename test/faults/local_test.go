//go:build !e2e

package faults

import (
	"cmp"
	"os"
	"testing"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/test/stack"
)

// localCells are those that plain `go test` runs.
const localCells = "^(hung/reading/raid-host|dropped/writing/2-of-3|killed/rebuilding/1-of-3|slow/writing/1-of-2)$"

func TestLocalCellsExist(t *testing.T) {
	if _, err := chosen(localCells); err != nil {
		t.Error(err)
	}
}

// TestCellsInProcess runs cells side by side, each with SPDK nodes of its own.
func TestCellsInProcess(t *testing.T) {
	if os.Getenv("FAULTS_CELLS") == "" {
		t.Skip("on a busy machine keep-alives of a second expire: `make faults` runs cells in real time, test/healing the like in simulated time")
	}
	klog.LogToStderr(false)
	klog.SetOutput(klogFile(t))
	t.Cleanup(func() { klog.LogToStderr(true) })
	cells, err := chosen(os.Getenv("FAULTS_CELLS"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cells {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			s, err := stack.StartLocal(t.Context(), stack.Options{ReplicaStall: stallBudget})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			r := c.run(t.Context(), s, t.Logf)
			t.Log(r.line())
			if r.bad() {
				t.Fail()
			}
		})
	}
}

// klogFile is where the driver's log goes: the file that FAULTS_LOG names, or nowhere.
func klogFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(cmp.Or(os.Getenv("FAULTS_LOG"), os.DevNull), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}
