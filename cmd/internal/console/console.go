// Package console owns the commands by which a person looks at the cluster and changes it: what they are called, what they print, and what
// they ask before they do harm. What they do is package operator's.
package console

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/spdk/operator"
)

// Access is how one command reaches the cluster.
type Access interface {
	// AddFlags adds the flags that the command needs for that.
	AddFlags(cmd *cobra.Command)
	// Open returns the operator's view of the cluster; done ends its connections.
	Open(ctx context.Context) (o *operator.Operator, done func(), err error)
}

// Cluster makes the access of a command.
type Cluster func() Access

// with runs a command on the cluster.
func with(ctx context.Context, access Access, run func(o *operator.Operator) error) error {
	o, done, err := access.Open(ctx)
	if err != nil {
		return err
	}
	defer done()
	return run(o)
}

// look makes a command that shows, as text or JSON, what it looks at.
func (c Cluster) look(cmd *cobra.Command, run func(ctx context.Context, o *operator.Operator, output outputFlag, out io.Writer) error) *cobra.Command {
	f := c()
	var output outputFlag
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := output.check(); err != nil {
			return err
		}
		return with(cmd.Context(), f, func(o *operator.Operator) error { return run(cmd.Context(), o, output, cmd.OutOrStdout()) })
	}
	f.AddFlags(cmd)
	output.add(cmd)
	return cmd
}

func mustRequire(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(err) // the flag was defined before
		}
	}
}
