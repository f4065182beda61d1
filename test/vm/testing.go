package vm

import (
	"context"
	"strings"
	"testing"
	"time"
)

const (
	bootLimit = 3 * time.Minute // software emulation on a busy machine
	// consoleTail is how much of the console a failed test shows, in lines.
	consoleTail = 60
)

// ForTest boots a machine for one test and ends it afterwards. A failed test
// shows the end of the console and of the kernel's log.
func ForTest(t testing.TB, c Config) *VM {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	defer cancel()
	v, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the guest's kernel log:\n%s", tail(v.kernelLog(), consoleTail))
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// kernelLog asks the guest, or takes the console where it does not answer.
func (v *VM) kernelLog() string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if r, err := v.Run(ctx, "dmesg"); err == nil {
		return r.Stdout
	}
	return v.Console()
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
