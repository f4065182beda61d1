// Package faults is the fault matrix: every way in which a part can fail, in every place, under every use of a volume. In each cell a
// load writes to a volume and reads it while the fault is there, and then: no I/O error, every acknowledged byte is there, all
// replicas are alike, and the volume is fully redundant again.
//
// The cells run in two forms. With the build tag e2e the whole driver runs, its processes on this machine and on a Linux kernel in a
// virtual machine, over SPDK targets that are simulated or, with SPDK_RPC_SOCK and FAULTS_CONTROL, real (see package stack). Without
// it a selection runs in this process, with a host in Go.
package faults

import (
	"fmt"
	"regexp"
	"time"

	"github.com/holdfast-csi/holdfast/test/stack"
	"github.com/holdfast-csi/holdfast/test/vm/load"
)

// fault is what is done to the victims.
type fault string

// Faults. dropped: the node neither sends nor receives a packet. fenced: it lets its host in no more, the raid host of a replica
// or the Linux host of the raid host. flapping: dropped and whole again, again and again.
const (
	killed   fault = "killed"
	hung     fault = "hung"
	dropped  fault = "dropped"
	diskHung fault = "disk-hung"
	fenced   fault = "fenced"
	slow     fault = "slow"
	flapping fault = "flapping"
)

var faults = []fault{killed, hung, dropped, diskHung, fenced, slow, flapping}

// hold is how long a fault lasts: longer than the stall budget, so that whatever it leads to has come about.
func (f fault) hold() time.Duration {
	switch f {
	case flapping:
		return 20 * time.Second
	case slow:
		return 8 * time.Second
	}
	return stallBudget + 4*time.Second
}

// onTarget is the fault as a target has it; false if it is none of a target alone.
func (f fault) onTarget() (stack.Fault, bool) {
	switch f {
	case killed:
		return stack.Killed, true
	case hung:
		return stack.Hung, true
	case dropped:
		return stack.Cut, true
	case diskHung:
		return stack.DiskHung, true
	case slow:
		return stack.Slow, true
	}
	return "", false
}

// activity is what the volume is used for meanwhile.
type activity string

// Activities. idle: nothing while the fault comes, writes before it goes. rebuilding: writes, while a replica is being rebuilt.
const (
	idle       activity = "idle"
	reading    activity = "reading"
	writing    activity = "writing"
	rebuilding activity = "rebuilding"
)

var activities = []activity{idle, reading, writing, rebuilding}

// mix is the load that runs when the fault comes.
func (a activity) mix() load.Mix {
	switch a {
	case idle:
		return load.Mix{}
	case reading:
		return load.Mix{Readers: 3, Pace: pace}
	}
	return load.Mix{Writers: 3, Readers: 1, FlushEvery: 16, Pace: pace}
}

// pace keeps the load from taking all of a small machine, on which keep-alives would then expire.
const pace = 3 * time.Millisecond

// place says whom the fault befalls: replicas on other nodes than the raid host, or the raid host and the replica that is there.
type place string

// Places. While a replica is being rebuilt it is among the replicas that the fault befalls.
const (
	oneOfTwo   place = "1-of-2"
	oneOfThree place = "1-of-3"
	twoOfThree place = "2-of-3"
	raidHost   place = "raid-host"
)

var places = []place{oneOfTwo, oneOfThree, twoOfThree, raidHost}

// replicas is how many the volume has, victims how many of them the fault befalls.
func (p place) replicas() int {
	if p == oneOfTwo {
		return 2
	}
	return 3
}

func (p place) victims() int {
	if p == twoOfThree {
		return 2
	}
	return 1
}

// cell is one case of the matrix.
type cell struct {
	fault    fault
	activity activity
	place    place
}

func (c cell) String() string { return fmt.Sprintf("%s/%s/%s", c.fault, c.activity, c.place) }

// matrix is all cells.
func matrix() []cell {
	var all []cell
	for _, f := range faults {
		for _, a := range activities {
			for _, p := range places {
				all = append(all, cell{f, a, p})
			}
		}
	}
	return all
}

// chosen returns the cells whose names the expression matches.
func chosen(expression string) ([]cell, error) {
	matches, err := regexp.Compile(expression)
	if err != nil {
		return nil, fmt.Errorf("FAULTS_CELLS: %w", err)
	}
	var some []cell
	for _, c := range matrix() {
		if matches.MatchString(c.String()) {
			some = append(some, c)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("FAULTS_CELLS=%q matches no cell; they are named as %s", expression, matrix()[0])
	}
	return some, nil
}
