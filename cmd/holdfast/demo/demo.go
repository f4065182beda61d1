// Package demo shows the driver at work on one machine, without root, SPDK and Kubernetes: three simulated SPDK nodes, both CSI
// services on sockets of their own, and a volume that is written to while one of its replicas dies, is rebuilt, and its raid host dies.
//
// What is simulated is SPDK's process and the machine's file system. The CSI calls, the JSON-RPC calls and all data on their way
// from the writer to the replicas are real.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

// Limits of the flags.
const (
	minSizeMiB, maxSizeMiB = 16, 4096
	minSeconds, maxSeconds = 1, 3600
)

// Options are the demo's flags.
type Options struct {
	// SizeMiB is the size of the volume.
	SizeMiB int
	// Seconds is how long the data are overwritten without a fault, before each fault.
	Seconds int
	// JSON prints one object for programs in place of the story.
	JSON bool
}

func (o Options) check() error {
	switch {
	case o.SizeMiB < minSizeMiB || o.SizeMiB > maxSizeMiB:
		return fmt.Errorf("--size %d: give %d to %d MiB", o.SizeMiB, minSizeMiB, maxSizeMiB)
	case o.Seconds < minSeconds || o.Seconds > maxSeconds:
		return fmt.Errorf("--seconds %d: give %d to %d", o.Seconds, minSeconds, maxSeconds)
	}
	return nil
}

// Command returns the subcommand.
func Command() *cobra.Command {
	o := Options{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a volume outliving one of its replicas and its raid host, on this machine alone",
		Long: "Show a volume outliving one of its replicas and its raid host, on this machine alone: three simulated SPDK nodes, the\n" +
			"driver's two services and a writer, with no need of root, SPDK or Kubernetes. The exit status is 0 only if there was no I/O\n" +
			"error, the lost replica was rebuilt, the volume moved, and all data were read back as they had been written.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if !klog.V(1).Enabled() {
				klog.SetLogger(logr.Discard()) // the story is told without the driver's log; -v=1 shows both
			}
			return Run(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.SizeMiB, "size", 128, "size of the volume in MiB")
	flags.IntVar(&o.Seconds, "seconds", 2, "how long to write without a fault before each fault, in seconds")
	flags.BoolVar(&o.JSON, "json", false, "print one JSON object instead of the story")
	return cmd
}

// Run tells the story on out, cleans up, and returns an error unless everything went well.
func Run(ctx context.Context, o Options, out io.Writer) error {
	story := &narrator{out: out, live: isTerminal(out)}
	if o.JSON {
		story = &narrator{out: io.Discard}
	}
	begin := time.Now()
	report, err := play(ctx, o, story)
	if ctx.Err() != nil {
		err = errors.New("interrupted; everything was cleaned up")
	}
	report.Seconds = time.Since(begin).Seconds()
	report.OK = err == nil
	if err != nil {
		report.Error = err.Error()
	}
	if o.JSON {
		if writeErr := report.writeJSON(out); writeErr != nil {
			return errors.Join(err, writeErr)
		}
		return err
	}
	if ctx.Err() == nil {
		report.tell(story)
	}
	return err
}

// play runs the demo in a directory of its own, which it removes.
func play(ctx context.Context, o Options, story *narrator) (report Report, err error) {
	dir, err := os.MkdirTemp("", "holdfast-demo-")
	if err != nil {
		return report, fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	story.title("A volume with three replicas. One of them dies and comes back; then the node dies that runs the volume.")
	story.text("The SPDK nodes are simulated and the file system only pretends; the CSI calls and the data's way over NVMe/TCP are real.")
	story.text("Everything happens below " + dir + " and is removed at the end.")
	lab, err := newLab(ctx, dir, int64(o.SizeMiB)<<20)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	p := &scene{lab: lab, o: o, story: story, report: &report}
	return report, p.run(ctx)
}
