package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// object is a JSON object whose members keep their order, as SPDK writes them:
// alternating names and values.
type object []member

type member struct {
	name  string
	value any
}

// obj makes an object of alternating names and values. It panics on an odd
// number of arguments or a name that is not a string: both are programming errors.
func obj(pairs ...any) object {
	if len(pairs)%2 != 0 {
		panic("sim: obj needs pairs")
	}
	o := make(object, 0, len(pairs)/2)
	for pair := range slices.Chunk(pairs, 2) {
		o = append(o, member{pair[0].(string), pair[1]})
	}
	return o
}

// with is the object with one more member.
func (o object) with(name string, value any) object { return append(o, member{name, value}) }

// MarshalJSON writes the members in their order.
func (o object) MarshalJSON() ([]byte, error) { return marshal(o) }

// marshal is json.Marshal without escaping for HTML, which SPDK doesn't do.
func marshal(v any) ([]byte, error) { return appendJSON(nil, v) }

// appendJSON appends v to b. What answers are made of most is written here, without the copy at each level of nesting that
// json.Marshaler costs; the rest is left to encoding/json.
func appendJSON(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case object:
		return appendObject(b, v)
	case []object:
		return appendArray(b, v)
	case []string:
		return appendArray(b, v)
	case string:
		if plain(v) {
			return append(append(append(b, '"'), v...), '"'), nil
		}
	case bool:
		return strconv.AppendBool(b, v), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case uint64:
		return strconv.AppendUint(b, v, 10), nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return append(b, bytes.TrimRight(buf.Bytes(), "\n")...), nil
}

func appendObject(b []byte, o object) ([]byte, error) {
	b = append(b, '{')
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendJSON(b, m.name); err != nil {
			return nil, err
		}
		if b, err = appendJSON(append(b, ':'), m.value); err != nil {
			return nil, fmt.Errorf("member %s: %w", m.name, err)
		}
	}
	return append(b, '}'), nil
}

func appendArray[T any](b []byte, list []T) ([]byte, error) {
	if list == nil {
		return append(b, "null"...), nil
	}
	b = append(b, '[')
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = appendJSON(b, v); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// plain says whether a string stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
}
