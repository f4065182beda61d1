package bundle

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// hidden stands where a secret may have been.
const hidden = "(hidden)"

// word is a name that a secret may have, for example encryptionPassphrase, dhchap_key or --token.
const word = `[\w.-]*(?:passphrase|passwd|password|secret|token|psk|credential|dhchap|api[-_]?key|private[-_]?key|access[-_]?key)[\w.-]*`

// value is what may follow such a name: quoted, quoted in something quoted, or plain.
const value = `(?:\\+"[^"]*?\\+"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;}&"']+)`

// rules replace what may be a secret. They rather hide too much.
var rules = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`-----BEGIN .*-----END [A-Z0-9 ]+-----`), hidden},
	{regexp.MustCompile(`(DHHC-1|NVMeTLSkey-1):[0-9A-Za-z]{2}:[A-Za-z0-9+/=]+:?`), hidden},
	{regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?`), hidden},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`), "$1 " + hidden},
	{regexp.MustCompile(`://[^/\s@]+@`), "://" + hidden + "@"},
	{regexp.MustCompile(`(?i)(\\*["']` + word + `\\*["']\s*:\s*)` + value), "$1" + hidden},
	{regexp.MustCompile(`(?i)(\\*"(?:[\w.-]*[-_.])?key\\*"\s*:\s*)` + value), "$1" + hidden},
	{regexp.MustCompile(`(?i)(` + word + `=)` + value), "$1" + hidden},
	{regexp.MustCompile(`(?i)(--?` + word + ` +)` + value), "$1" + hidden},
	{regexp.MustCompile(`(?i)(\b` + word + `: +)[^(].*`), "$1" + hidden},
}

// longestLine bounds a line, in bytes; the rest of one that is longer is left out.
const longestLine = 64 << 10

// redact copies a text line by line without what may be a secret. It knows secrets by their form and by the names that they are given.
func redact(to io.Writer, from io.Reader) error {
	in := bufio.NewReaderSize(from, longestLine)
	inBlock := false
	for {
		line, cut, err := readLine(in)
		if line != "" || err == nil {
			text := clean(line, &inBlock)
			if cut {
				text += " (cut)"
			}
			if _, err := fmt.Fprintln(to, text); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readLine reads a line without its end, the first longestLine bytes of it.
func readLine(in *bufio.Reader) (line string, cut bool, err error) {
	part, more, err := in.ReadLine()
	line = string(part)
	for more && err == nil {
		cut = true
		_, more, err = in.ReadLine()
	}
	return line, cut, err
}

// clean returns a line without what may be a secret. inBlock says that it begins within a PEM block (RFC 7468).
func clean(line string, inBlock *bool) string {
	if *inBlock {
		_, rest, ends := strings.Cut(line, "-----END ")
		if !ends {
			return hidden
		}
		_, rest, _ = strings.Cut(rest, "-----")
		*inBlock, line = false, hidden+rest
	}
	for _, rule := range rules {
		line = rule.pattern.ReplaceAllString(line, rule.by)
	}
	if before, _, begins := strings.Cut(line, "-----BEGIN "); begins {
		*inBlock, line = true, before+hidden
	}
	return line
}
