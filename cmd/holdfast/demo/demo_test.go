package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/cmd/holdfast/demo"
)

// inDir makes the demo's directory a child of the test's own, and returns a check that nothing is left there.
func inDir(t *testing.T) (wantEmpty func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf") // short: sockets are below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	return func() {
		t.Helper()
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestDemoReportsForPrograms(t *testing.T) {
	wantEmpty := inDir(t)
	var out bytes.Buffer
	if err := demo.Run(t.Context(), demo.Options{SizeMiB: 16, Seconds: 1, JSON: true}, &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	wantEmpty()
	var r demo.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in %q", err, &out)
	}
	if !r.OK || !r.Verified || r.IOErrors != 0 || r.BytesVerified != 15<<20 || r.BytesWritten <= r.BytesVerified || len(r.Calls) != 8 ||
		r.LostReplica != "out-of-sync" || r.ReplicaNode == "" || r.ReplicaNode == r.RaidHost || r.ReplicaPause == 0 || r.Rebuild == 0 ||
		r.RaidHost == "" || r.NewRaidHost == "" || r.NewRaidHost == r.RaidHost || r.FailoverPause == 0 || r.LongestPause == 0 {
		t.Errorf("the report is %+v", r)
	}
}

// stopAt cancels a context when the story has come to a certain point.
type stopAt struct {
	bytes.Buffer
	point string
	stop  context.CancelFunc
}

func (s *stopAt) Write(p []byte) (int, error) {
	if strings.Contains(string(p), s.point) {
		s.stop()
	}
	return s.Buffer.Write(p)
}

func TestInterruptedDemoFailsAndCleansUp(t *testing.T) {
	for _, point := range []string{"CreateVolume", "Writing a pattern", "Killing", "is rebuilt while"} {
		t.Run(point, func(t *testing.T) {
			wantEmpty := inDir(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := &stopAt{point: point, stop: cancel}
			err := demo.Run(ctx, demo.Options{SizeMiB: 16, Seconds: 1}, out)
			if err == nil || !strings.Contains(err.Error(), "interrupted") {
				t.Errorf("got %v\n%s", err, out)
			}
			wantEmpty()
		})
	}
}
