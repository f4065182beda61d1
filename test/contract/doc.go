// Package contract holds the tests of SPDK's behaviour that the driver leans on, and of
// the operations of package spdk on a node.
//
// One suite runs against both: against simulated targets (package spdk/sim) by default,
// and against real nvmf_tgt processes when SPDK_RPC_SOCK names their sockets, separated by
// commas. Three are needed for every test to run; each has an lvstore and an NVMe/TCP
// transport, and all listen on and connect to 127.0.0.1. Where the two differ the simulator
// is wrong. On a machine with few cores the targets need a keep-alive of 10 s or more: one
// that expires without cause resets legs, and a reset loses what was announced meanwhile.
//
// A test makes what it needs under names of its own and leaves the targets as it found
// them, which is checked.
package contract
