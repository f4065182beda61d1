package spdk

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// diskLimit is how long a disk may take to read a block.
const diskLimit = time.Second

// DiskAnswers has the disk below an lvstore read the lvstore's super block. ErrDiskHangs says that it didn't answer within diskLimit, or
// that the SPDK process didn't.
func (n *Node) DiskAnswers(ctx context.Context, lvstore string) error {
	limited, cancel := context.WithTimeout(ctx, diskLimit)
	defer cancel()
	err := BdevLvolGrowLvstore(limited, n.rpc, BdevLvolGrowLvstoreParams{LvsName: lvstore})
	if errors.Is(err, ErrUnknownOutcome) && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w in %s: %w", ErrDiskHangs, diskLimit, err)
	}
	return n.wrap(err, "read the disk of lvstore %s", lvstore)
}
