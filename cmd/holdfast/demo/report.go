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
	Seconds    float64 `json:"seconds"`
	RaidHost   string  `json:"raidHost"`
	KilledNode string  `json:"killedNode"`
	// LostReplica is the state on record of the killed node's replica, when writes had gone on without it.
	LostReplica string `json:"lostReplica"`
	Calls       []Call `json:"calls"`
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
	story.row("longest pause of one I/O", fmt.Sprintf("%s (the volume's budget is %s)", short(seconds(r.LongestPause)), budgets.ReplicaStall))
	story.row("all of the demo", short(seconds(r.Seconds)))
	if r.OK {
		story.gap()
		story.text("No I/O error, and every byte reads as it was written.")
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
