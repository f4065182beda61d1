// Package random runs the whole driver at random: CSI calls, I/O from one machine or from two, encryption, snapshots of one volume or of two at one
// moment, restored volumes and clones, changes of size, limits and the number of replicas, faults and the passing of time, drawn from a seed, while
// a model of what was acknowledged, and the simulated SPDK nodes themselves, are asked after each step whether all is well.
//
// A run lives in a bubble of testing/synctest: simulated SPDK nodes, controller and node services in one process, joined by a
// network in memory. Their time is the bubble's, which goes on when all of them wait: an hour costs what happens in it, and a
// machine that is busy with other things makes nothing time out.
//
// A sync.Mutex that is held while its holder waits for time to pass stops that clock for good, as soon as another goroutine
// wants the mutex: the run hangs, and the stacks of the time-out show both.
package random
