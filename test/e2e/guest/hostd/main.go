// Command hostd runs in the test virtual machine; see package guest.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/holdfast-csi/holdfast/test/e2e/guest"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "hostd:", err)
		os.Exit(1)
	}
}

func serve() error {
	if err := os.Remove(guest.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", guest.Socket)
	if err != nil {
		return err
	}
	fmt.Println("listening") // tells the test that it may call
	return guest.Serve(l)
}
