package main

import (
	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/cmd/holdfast/demo"
)

func demoCommand() *cobra.Command { return demo.Command() }
