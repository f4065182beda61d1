package cluster

import (
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

func TestStoreInMemoryIsOne(t *testing.T) {
	storetest.Run(t, func(*testing.T) volume.Store { return newMemory() })
}
