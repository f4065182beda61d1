package nvmetcp

import "fmt"

// ANAState is the state of an ANA group as seen through one controller (NVM
// Express Base 2.0, 8.1.1). The values are those on the wire.
type ANAState uint8

// ANA states.
const (
	ANAOptimized      ANAState = 0x1
	ANANonOptimized   ANAState = 0x2
	ANAInaccessible   ANAState = 0x3
	ANAPersistentLoss ANAState = 0x4
	ANAChange         ANAState = 0xf
)

// String is the name that the Linux kernel shows in sysfs (ana_state).
func (s ANAState) String() string {
	switch s {
	case ANAOptimized:
		return "optimized"
	case ANANonOptimized:
		return "non-optimized"
	case ANAInaccessible:
		return "inaccessible"
	case ANAPersistentLoss:
		return "persistent-loss"
	case ANAChange:
		return "change"
	default:
		return fmt.Sprintf("reserved-%x", uint8(s))
	}
}

// pathError is the status of I/O in state s, nil where I/O is served.
func (s ANAState) pathError() *StatusError {
	switch s {
	case ANAInaccessible:
		return &StatusError{SCT: SCTPath, SC: SCANAInaccessible}
	case ANAPersistentLoss:
		return &StatusError{SCT: SCTPath, SC: SCANAPersistentLoss}
	case ANAChange:
		return &StatusError{SCT: SCTPath, SC: SCANATransition}
	default:
		return nil
	}
}
