package main

import (
	"testing"

	"github.com/holdfast-csi/holdfast/test/docs"
	"github.com/spf13/cobra"
)

func TestDocumentationShowsCommandsThatExist(t *testing.T) {
	docs.Check(t, "kubectl holdfast", func() *cobra.Command { return root(kubectl) })
}
