package sim

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// goldenVaries are the keys whose values differ from run to run; only their types
// are compared. Counters of a real process's own traffic are among them.
var goldenVaries = map[string]bool{
	"tick_rate": true, "ticks": true, "pid": true, "tid": true, "lcore": true, "busy": true, "idle": true,
	"in_interrupt": true, "irq": true, "sys": true, "elapsed": true, "cpumask": true,
	"thread": true, "cntlid": true, "hostid": true, "numa_id": true,
	"bytes_read": true, "num_read_ops": true, "bytes_written": true, "num_write_ops": true,
	"num_io_boundary_splits": true, "current_admin_qpairs": true, "current_io_qpairs": true,
	"usr": true, "blocks": true, "percent": true,
	"admin_qpairs": true, "io_qpairs": true, "completed_nvme_io": true, "pending_bdev_io": true,
}

func goldenVariable(key string) bool {
	return goldenVaries[key] || strings.HasSuffix(key, "_ticks")
}

var goldenUUID = regexp.MustCompile(`^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`)

// learn remembers which of our UUIDs stands for which recorded one.
func (g *goldenReplay) learn(want, have any) {
	switch want := want.(type) {
	case map[string]any:
		for k, v := range want {
			g.learn(v, have.(map[string]any)[k])
		}
	case []any:
		for i, v := range want {
			g.learn(v, have.([]any)[i])
		}
	case string:
		if h := have.(string); goldenUUID.MatchString(want) && goldenUUID.MatchString(h) && want != h {
			g.known[want] = h
		}
	}
}

// differences compares recorded JSON with ours: keys, types and what does not vary.
func (g *goldenReplay) differences(path, key string, want, have any) []string {
	if reflect.TypeOf(want) != reflect.TypeOf(have) {
		return []string{fmt.Sprintf("%s is %v, recorded %v", path, have, want)}
	}
	if strings.HasSuffix(path, "ctrlr_data.model_number") || strings.HasSuffix(path, "ctrlr_data.serial_number") {
		return nil // nvmetcp's host does not tell them
	}
	switch want := want.(type) {
	case map[string]any:
		return g.objectDifferences(path, want, have.(map[string]any))
	case []any:
		return g.arrayDifferences(path, key, want, have.([]any))
	case string:
		if w := g.ourString(want, key); w != have && !goldenVariable(key) && !g.newUUID(want, have.(string)) {
			return []string{fmt.Sprintf("%s is %q, recorded %q", path, have, w)}
		}
	default:
		if want != have && !goldenVariable(key) {
			return []string{fmt.Sprintf("%s is %v, recorded %v", path, have, want)}
		}
	}
	return nil
}

// newUUID tells whether a UUID was recorded that has not been seen before: ours may
// be anything.
func (g *goldenReplay) newUUID(want, have string) bool {
	_, seen := g.known[want]
	return !seen && goldenUUID.MatchString(want) && goldenUUID.MatchString(have)
}

func (g *goldenReplay) objectDifferences(path string, want, have map[string]any) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(want)) {
		v, ok := have[k]
		if !ok {
			out = append(out, fmt.Sprintf("%s.%s is missing, recorded %v", path, k, want[k]))
			continue
		}
		out = append(out, g.differences(path+"."+k, k, want[k], v)...)
	}
	for _, k := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[k]; !ok {
			out = append(out, fmt.Sprintf("%s.%s is not in the recording", path, k))
		}
	}
	return out
}

func (g *goldenReplay) arrayDifferences(path, key string, want, have []any) (out []string) {
	if len(want) != len(have) {
		return []string{fmt.Sprintf("%s has %d elements, recorded %d: %v, recorded %v", path, len(have), len(want), have, want)}
	}
	for i := range want {
		out = append(out, g.differences(fmt.Sprintf("%s[%d]", path, i), key, want[i], have[i])...)
	}
	return out
}
