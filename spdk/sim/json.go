package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
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
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := marshal(m.value)
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", m.name, err)
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal is json.Marshal without escaping for HTML, which SPDK doesn't do.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
