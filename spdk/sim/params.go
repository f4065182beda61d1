package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"

	"github.com/google/uuid"
)

// errDecode is what a handler sees of parameters that SPDK would refuse.
var errDecode = errors.New("spdk_json_decode_object failed")

// decodeObject reads params into the struct that dst points to, as
// spdk_json_decode_object does: a member that no field names, one given twice, a
// value of another type and a missing required member are errors. Fields are
// named by a `json` tag; the tag `rpc:"required"` makes one required, and an `enum`
// tag lists the accepted words of a string. Fields not given keep their values,
// so that dst holds the defaults. relaxed ignores unknown members
// (spdk_json_decode_object_relaxed).
func decodeObject(params json.RawMessage, dst any, relaxed bool) error {
	return decodeStruct(params, reflect.ValueOf(dst).Elem(), relaxed)
}

func decodeStruct(raw json.RawMessage, v reflect.Value, relaxed bool) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%w: not an object", errDecode)
	}
	fields := fieldsOf(v.Type())
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fmt.Errorf("%w: %w", errDecode, err)
		}
		name := t.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("%w: %w", errDecode, err)
		}
		f, ok := fields[name]
		if !ok {
			if relaxed {
				continue
			}
			return fmt.Errorf("%w: unknown member %q", errDecode, name)
		}
		if seen[name] {
			return fmt.Errorf("%w: %q given twice", errDecode, name)
		}
		seen[name] = true
		if err := decodeValue(value, v.Field(f.index), f.enum); err != nil {
			return fmt.Errorf("member %q: %w", name, err)
		}
	}
	for name, f := range fields {
		if f.required && !seen[name] {
			return fmt.Errorf("%w: %q is missing", errDecode, name)
		}
	}
	return nil
}

type field struct {
	index    int
	required bool
	enum     []string
}

func fieldsOf(t reflect.Type) map[string]field {
	m := make(map[string]field, t.NumField())
	for i := range t.NumField() {
		tag := t.Field(i).Tag.Get("json")
		f := field{index: i, required: t.Field(i).Tag.Get("rpc") == "required"}
		if e := t.Field(i).Tag.Get("enum"); e != "" {
			f.enum = strings.Split(e, ",")
		}
		m[tag] = f
	}
	return m
}

var uuidType = reflect.TypeFor[uuid.UUID]()

func decodeValue(raw json.RawMessage, v reflect.Value, enum []string) error {
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		if err := decodeValue(raw, p.Elem(), enum); err != nil {
			return err
		}
		v.Set(p)
		return nil
	}
	if v.Type() == uuidType {
		return decodeUUID(raw, v)
	}
	switch v.Kind() {
	case reflect.String:
		return decodeString(raw, v, enum)
	case reflect.Bool:
		var b bool
		if string(raw) != "true" && string(raw) != "false" {
			return fmt.Errorf("%w: not a boolean", errDecode)
		}
		b = string(raw) == "true"
		v.SetBool(b)
		return nil
	case reflect.Struct:
		return decodeStruct(raw, v, false)
	case reflect.Slice:
		return decodeSlice(raw, v, enum)
	default:
		return decodeNumber(raw, v)
	}
}

func decodeString(raw json.RawMessage, v reflect.Value, enum []string) error {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return fmt.Errorf("%w: not a string", errDecode)
	}
	if enum != nil {
		ok := false
		for _, e := range enum {
			ok = ok || e == s
		}
		if !ok {
			return fmt.Errorf("%w: %q is none of %v", errDecode, s, enum)
		}
	}
	v.SetString(s)
	return nil
}

func decodeUUID(raw json.RawMessage, v reflect.Value) error {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return fmt.Errorf("%w: not a UUID", errDecode)
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return fmt.Errorf("%w: not a UUID", errDecode)
	}
	v.Set(reflect.ValueOf(u))
	return nil
}

func decodeSlice(raw json.RawMessage, v reflect.Value, enum []string) error {
	var items []json.RawMessage
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &items) != nil {
		return fmt.Errorf("%w: not an array", errDecode)
	}
	s := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		if err := decodeValue(item, s.Index(i), enum); err != nil {
			return err
		}
	}
	v.Set(s)
	return nil
}

// decodeNumber accepts what spdk_json_number_to_uint64 and its kind accept: any
// way of writing an integer that fits, such as 1e3 and 2.0.
func decodeNumber(raw json.RawMessage, v reflect.Value) error {
	if len(raw) == 0 || raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return fmt.Errorf("%w: not a number", errDecode)
	}
	if len(raw) > 32 || hugeExponent(string(raw)) {
		return fmt.Errorf("%w: out of range", errDecode)
	}
	r, ok := new(big.Rat).SetString(string(raw))
	if !ok || !r.IsInt() {
		return fmt.Errorf("%w: not an integer", errDecode)
	}
	n := r.Num()
	switch v.Kind() {
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if !n.IsUint64() || v.OverflowUint(n.Uint64()) {
			return fmt.Errorf("%w: out of range", errDecode)
		}
		v.SetUint(n.Uint64())
	case reflect.Int32, reflect.Int64, reflect.Int:
		if !n.IsInt64() || v.OverflowInt(n.Int64()) {
			return fmt.Errorf("%w: out of range", errDecode)
		}
		v.SetInt(n.Int64())
	default:
		return fmt.Errorf("%w: cannot hold a number", errDecode)
	}
	return nil
}

// hugeExponent keeps big.Rat from expanding a number that fits nowhere anyway.
func hugeExponent(s string) bool {
	_, exp, ok := strings.Cut(strings.ToLower(s), "e")
	return ok && len(strings.TrimLeft(exp, "+-0")) > 2
}
