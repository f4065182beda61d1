package spdk

import (
	"encoding/json"
	"strings"
)

// secretWords mark members whose values stay out of logs, for example psk and dhchap_key.
var secretWords = []string{"psk", "key", "secret", "password", "passphrase"}

// redact returns a payload for the log, with the value of every member that may be a
// secret replaced. Members such as keep_alive_timeout_ms are numbers and stay.
func redact(payload json.RawMessage) string {
	if len(payload) == 0 {
		return ""
	}
	var value any
	if err := json.Unmarshal(payload, &value); err != nil {
		return "(not JSON)"
	}
	clean, err := json.Marshal(withoutSecrets(value))
	if err != nil {
		return "(not JSON)"
	}
	return string(clean)
}

func withoutSecrets(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			if _, text := member.(string); text && maySecret(name) {
				v[name] = "(hidden)"
				continue
			}
			v[name] = withoutSecrets(member)
		}
	case []any:
		for i := range v {
			v[i] = withoutSecrets(v[i])
		}
	}
	return value
}

func maySecret(name string) bool {
	name = strings.ToLower(name)
	for _, word := range secretWords {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
