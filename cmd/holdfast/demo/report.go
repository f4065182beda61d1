package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Report is the outcome, as --json prints it. Durations are in seconds.
type Report struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Seconds is how long all of it took.
	Seconds float64 `json:"seconds"`
	Calls   []Call  `json:"calls"`
	// ReplicaNode is the node that was killed first, and ReplicaPause the longest that one write then took. LostReplica is the state
	// on record of its replica when writes had gone on without it.
	ReplicaNode  string  `json:"replicaNode"`
	ReplicaPause float64 `json:"replicaPauseSeconds"`
	LostReplica  string  `json:"lostReplica"`
	// Rebuild is how long it took from the node's return until its replica was in-sync again and the standby whole.
	Rebuild float64 `json:"rebuildSeconds"`
	// RaidHost is the node that was killed second, NewRaidHost the one that the volume ran on then, FailoverPause as ReplicaPause.
	RaidHost      string  `json:"raidHost"`
	NewRaidHost   string  `json:"newRaidHost"`
	FailoverPause float64 `json:"failoverPauseSeconds"`
	// Verified says that all data were read back as they had been written.
	Verified      bool  `json:"verified"`
	BytesWritten  int64 `json:"bytesWritten"`
	BytesVerified int64 `json:"bytesVerified"`
	IOErrors      int64 `json:"ioErrors"`
	// LongestPause is the longest that one read or write took.
	LongestPause float64 `json:"longestPauseSeconds"`
}

// Call is one CSI call.
type Call struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

func (r *Report) addLoad(l *load) {
	r.BytesWritten, r.BytesVerified, r.IOErrors = l.bytesWritten.Load(), l.bytesVerified.Load(), l.ioErrors.Load()
	r.LongestPause = time.Duration(l.longestPause.Load()).Seconds()
}

func (r Report) writeJSON(out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// tell prints the outcome as a table.
func (r Report) tell(story *narrator) {
	if len(r.Calls) == 0 {
		return
	}
	story.title("What came of it")
	for _, c := range r.Calls {
		story.row(c.Name, short(seconds(c.Seconds)))
	}
	story.gap()
	story.row("written", fmt.Sprintf("%d MiB", r.BytesWritten>>20))
	story.row("read back and verified", fmt.Sprintf("%d MiB", r.BytesVerified>>20))
	story.row("I/O errors", fmt.Sprint(r.IOErrors))
	story.row("pause, a replica lost", fmt.Sprintf("%s (the volume's budget is %s)", short(seconds(r.ReplicaPause)), budgets.ReplicaStall))
	story.row("until it was rebuilt", fmt.Sprintf("%s (of which %s to see that it holds)", short(seconds(r.Rebuild)), budgets.ReplicaStall))
	story.row("pause, the raid host lost", short(seconds(r.FailoverPause)))
	story.row("all of the demo", short(seconds(r.Seconds)))
	if r.OK {
		story.gap()
		story.text("No I/O error, and every byte reads as it was written.")
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
