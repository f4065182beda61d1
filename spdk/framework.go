package spdk

import (
	"context"
	"encoding/json"
)

// ConfigEntry is one call that would bring a subsystem to its present configuration.
type ConfigEntry struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// FrameworkGetConfigParams names a subsystem.
type FrameworkGetConfigParams struct {
	// Name is for example bdev or nvmf.
	Name string `json:"name"`
}

var frameworkGetConfig = register[FrameworkGetConfigParams, []ConfigEntry]("framework_get_config")

// FrameworkGetConfig returns the present configuration of a subsystem as calls.
func FrameworkGetConfig(ctx context.Context, c Caller, p FrameworkGetConfigParams) ([]ConfigEntry, error) {
	return frameworkGetConfig.call(ctx, c, p)
}

// Version is SPDK's version.
type Version struct {
	// Version is for people, for example "SPDK v26.09-pre".
	Version string `json:"version"`
}

var spdkGetVersion = register[NoParams, Version]("spdk_get_version")

// GetVersion asks which SPDK answers. It is the cheapest call there is.
func GetVersion(ctx context.Context, c Caller) (Version, error) {
	return spdkGetVersion.call(ctx, c, NoParams{})
}
