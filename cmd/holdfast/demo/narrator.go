package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// drawInterval is how often the progress bar is drawn anew.
const drawInterval = 100 * time.Millisecond

// barWidth is the width of the progress bar in characters.
const barWidth = 30

// narrator prints the story: lines, and on a terminal a progress bar below them.
type narrator struct {
	mu   sync.Mutex
	out  io.Writer
	live bool
	bar  string // drawn now, without a newline
}

// isTerminal says whether out is a terminal, where a line can be drawn over.
func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// line prints a line above the bar.
func (n *narrator) line(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	fmt.Fprintf(n.out, format+"\n", args...)
	fmt.Fprint(n.out, n.bar)
}

// erase removes the bar from the screen. The caller holds mu.
func (n *narrator) erase() {
	if n.bar != "" {
		fmt.Fprint(n.out, "\r\x1b[K") // ECMA-48: to the line's start, erase to its end
	}
}

func (n *narrator) draw(bar string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	n.bar = bar
	fmt.Fprint(n.out, bar)
}

func (n *narrator) title(text string) { n.line("\n%s\n", text) }

func (n *narrator) text(text string) { n.line("  %s", text) }

func (n *narrator) gap() { n.line("") }

func (n *narrator) step(format string, args ...any) { n.line("- "+format, args...) }

func (n *narrator) row(name, value string) { n.line("  %-28s %s", name, value) }

// during runs work and, where there is a terminal, shows a line about it that changes.
func (n *narrator) during(what string, now func() string, work func() error) error {
	n.step("%s", what)
	begin := time.Now()
	finished := make(chan error, 1)
	go func() { finished <- work() }()
	ticker := time.NewTicker(drawInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-finished:
			n.draw("")
			if err == nil {
				n.text("done in " + short(time.Since(begin)))
			}
			return err
		case <-ticker.C:
			if n.live {
				n.draw("  " + now())
			}
		}
	}
}

// bar draws a part of 1.
func bar(part float64) string {
	part = min(1, part)
	full := int(part * barWidth)
	return fmt.Sprintf("[%s%s] %3.0f %%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), 100*part)
}

// short writes a duration as a person reads it.
func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
