package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// errCordonsUnknown: the store doesn't answer. It passes.
var errCordonsUnknown = errors.New("which SPDK nodes are cordoned can't be read")

func (s *Server) cordoned(ctx context.Context) ([]string, error) {
	names, err := s.store.Cordoned(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCordonsUnknown, err)
	}
	return names, nil
}

// open returns the lvstores that the parameters allow and where something new may go, the nodes that are left out because they are cordoned,
// and an error for those that don't answer.
func (s *Server) open(ctx context.Context, p volume.Parameters) (pools []pool, cordoned []string, down error) {
	cordoned, err := s.cordoned(ctx)
	if err != nil {
		return nil, nil, err
	}
	pools, down = s.inventory.pools(ctx, p)
	return slices.DeleteFunc(pools, func(p pool) bool { return slices.Contains(cordoned, p.node.Name) }), cordoned, down
}

// besides names the nodes that were left out, for an error.
func besides(cordoned []string) string {
	if len(cordoned) == 0 {
		return ""
	}
	return fmt.Sprintf(" (cordoned, and left out, are %s)", strings.Join(cordoned, ", "))
}
