package healing

import (
	"flag"
	"os"
	"testing"
)

// TestMain lets more tests run side by side than there are processors, for they mostly wait; against real targets, which they share, one
// after the other.
func TestMain(m *testing.M) {
	flag.Parse()
	parallel := "5"
	if os.Getenv("SPDK_RPC_SOCK") != "" {
		parallel = "1"
	}
	if err := flag.Set("test.parallel", parallel); err != nil {
		panic(err) // the testing package defines it
	}
	os.Exit(m.Run())
}

// longTest leaves a test out of `make test`, which runs with the race detector: `make healing` runs it without.
func longTest(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it takes long with the race detector: make healing")
	}
}
