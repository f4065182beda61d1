// Command prepare fetches what the end-to-end tests' virtual machine is made of.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/holdfast-csi/holdfast/test/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := vm.Prepare(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}
