package storetest

import (
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func cordonStaysUntilItIsTakenBack(t *testing.T, s volume.Store) {
	for _, step := range []struct {
		node     string
		cordoned bool
		then     []string
	}{
		{"b", false, nil},
		{"b", true, []string{"b"}},
		{"b", true, []string{"b"}},
		{"a", true, []string{"a", "b"}},
		{"b", false, []string{"a"}},
		{"a", false, nil},
	} {
		want(t, s.SetCordon(t.Context(), step.node, step.cordoned), nil)
		names, err := s.Cordoned(t.Context())
		want(t, err, nil)
		if !slices.Equal(names, step.then) {
			t.Fatalf("after %s is cordoned: %t: %v", step.node, step.cordoned, names)
		}
	}
}
