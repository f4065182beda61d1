// Command prepare makes what the workers of the tests in a cluster run on, once: a minimal Debian, by debootstrap, as root.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/holdfast-csi/holdfast/test/kubernetes/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := cluster.Prepare(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}
