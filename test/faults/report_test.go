package faults

import (
	"strings"
	"testing"
	"time"
)

func TestTableHasALineForEachCellAndNamesWhatItRanOn(t *testing.T) {
	var b strings.Builder
	err := table{ran: "Targets: 3, simulated.", results: []result{
		{name: "killed/writing/1-of-3", stall: 3210 * time.Millisecond, done: 7, redundancy: 12 * time.Second, crashes: 1},
		{name: "hung/idle/1-of-2", errors: 2, differing: 9, problems: []string{"a | b\nc"}},
		{name: "slow/idle/1-of-2", skipped: true},
	}}.write(&b)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Targets: 3, simulated.",
		"| killed/writing/1-of-3 | 3.2 s | 7 | 0 | 0 | 12.0 s | target processes crashed: 1 |",
		"| hung/idle/1-of-2 | 0.0 s | 0 | 2 | 9 | not reached | a \\| b c |",
		"| slow/idle/1-of-2 | | | | | | not run",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestCellFailsByWhateverItsUserOrOperatorWouldSee(t *testing.T) {
	for _, r := range []result{{errors: 1}, {differing: 1}, {problems: []string{"not redundant"}}} {
		if !r.bad() {
			t.Errorf("%+v is good", r)
		}
	}
	if r := (result{stall: time.Hour, crashes: 1}); r.bad() {
		t.Errorf("%+v is bad: times are reported, not judged", r)
	}
}

func TestCellsAreChosenByName(t *testing.T) {
	if all, err := chosen(""); err != nil || len(all) != len(faults)*len(activities)*len(places) {
		t.Errorf("all: %d cells, %v", len(all), err)
	}
	some, err := chosen("^killed/(idle|reading)/raid-host$")
	if err != nil || len(some) != 2 || some[0] != (cell{killed, idle, raidHost}) {
		t.Errorf("got %v, %v", some, err)
	}
	for _, wrong := range []string{"(", "no-such-fault"} {
		if _, err := chosen(wrong); err == nil {
			t.Errorf("%q chose something", wrong)
		}
	}
}
