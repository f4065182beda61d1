package main

import (
	"testing"

	"github.com/holdfast-csi/holdfast/test/docs"
)

func TestDocumentationShowsCommandsThatExist(t *testing.T) { docs.Check(t, "holdfast", root) }
