package sim

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestAnswersAreWrittenAsEncodingJSONWritesThem(t *testing.T) {
	var none []object
	for _, v := range []any{
		nil, true, -3, int64(1) << 62, ^uint64(0), uint8(7), 0.5, "plain", "quote \" back \\ tab \t", "<&>", "\u00fc\u2028", "\x00",
		[]string{"a", "b\n"}, []string{}, []int{1, 2}, none, []object{}, map[string]int{"b": 1, "a": 2},
		json.RawMessage(`{"raw":1}`), struct {
			A int `json:"a"`
		}{5},
	} {
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		got, err := marshal(v)
		if err != nil || string(got)+"\n" != want.String() {
			t.Errorf("%#v is written %s, %v, want %s", v, got, err, &want)
		}
	}
	got, err := json.Marshal(obj("z", 1, "a", obj("list", []object{obj("n", nil)}, "of", []any{obj(), "x"})))
	if want := `{"z":1,"a":{"list":[{"n":null}],"of":[{},"x"]}}`; err != nil || string(got) != want {
		t.Errorf("an object is written %s, %v, want %s", got, err, want)
	}
}
