package spdk

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// answers are frames as SPDK may send them, one after the other and with white space between.
var answers = []string{
	`{"jsonrpc":"2.0","id":1,"result":true}`,
	`{"jsonrpc":"2.0","id":2,"result":[{"name":"a]}\"{","list":[1,[2,{"x":"\\"}]]}]}`,
	`{"id":3,"jsonrpc":"2.0","result":{}}`,
	`{"jsonrpc":"2.0","id":4,"error":{"code":-19,"message":"No such \"device\" }{"}}`,
	`{ "jsonrpc" : "2.0", "result" : [ ] , "id" : 5 }`,
	`{"jsonrpc":"2.0","id":6,"result":"a string with [ and \\\" in it"}`,
	`{"jsonrpc":"2.0","id":7,"result":[{"process":{"type":"rebuild"}}],"more":{"result":[1]}}`,
	`{"jsonrpc":"2.0","id":8,"result":{"u":"\u00e9\u007d"}}`,
}

// Frames are cut alike whatever pieces they come in, and hold what a JSON decoder finds in them.
func TestFramesAreCutWhateverPiecesTheyComeIn(t *testing.T) {
	stream := strings.Join(answers, " \r\n\t")
	readers := map[string]func(io.Reader) io.Reader{
		"whole":        func(r io.Reader) io.Reader { return r },
		"byte by byte": iotest.OneByteReader,
		"by halves":    iotest.HalfReader,
		"error at end": iotest.DataErrReader,
	}
	for size := 2; size < 40; size++ {
		readers["in pieces of "+strings.Repeat("i", size)] = func(r io.Reader) io.Reader { return &pieces{r, size} }
	}
	for name, through := range readers {
		all := frames{from: through(strings.NewReader(stream))}
		for _, sent := range answers {
			f, err := all.next()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := strings.TrimSpace(string(f.object)); got != sent {
				t.Fatalf("%s: got %s, sent was %s", name, got, sent)
			}
			got, err := f.answer()
			if err != nil {
				t.Fatalf("%s: %s: %v", name, sent, err)
			}
			var want wireAnswer
			if err := json.Unmarshal([]byte(sent), &want); err != nil {
				t.Fatal(err)
			}
			gotText, _ := json.Marshal(got)
			wantText, _ := json.Marshal(want)
			if !bytes.Equal(gotText, wantText) {
				t.Errorf("%s: %s is read as %s, not %s", name, sent, gotText, wantText)
			}
		}
		if _, err := all.next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: at the end: %v", name, err)
		}
	}
}

// pieces reads at most so many bytes at once.
type pieces struct {
	from io.Reader
	size int
}

func (p *pieces) Read(b []byte) (int, error) { return p.from.Read(b[:min(len(b), p.size)]) }

func TestWhatIsNoObjectIsNoFrame(t *testing.T) {
	for _, sent := range []string{`true`, `"{}"`, `}`, `]`, `x{}`} {
		if f, err := (&frames{from: strings.NewReader(sent)}).next(); !errors.Is(err, errBadAnswer) {
			t.Errorf("%s: %s, %v", sent, f.object, err)
		}
	}
	if _, err := (&frames{from: strings.NewReader(`{"id":1`)}).next(); !errors.Is(err, io.EOF) {
		t.Errorf("an object that is cut short: %v", err)
	}
}

// Whatever the cutter takes for one object that is valid JSON, a JSON decoder takes for the same.
func FuzzFrames(f *testing.F) {
	for _, sent := range answers {
		f.Add([]byte(sent))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		cut, err := (&frames{from: bytes.NewReader(sent)}).next()
		var first json.RawMessage
		decoder := json.NewDecoder(bytes.NewReader(sent))
		if decodeErr := decoder.Decode(&first); decodeErr != nil || len(first) == 0 || first[0] != '{' && first[0] != '[' {
			return // what is no JSON object is refused when it is decoded
		}
		if err != nil || !bytes.Equal(bytes.TrimSpace(cut.object), first) {
			t.Fatalf("%q is cut as %q, %v; a decoder finds %q", sent, cut.object, err, first)
		}
	})
}
