package spdk

import "context"

// KeyInfo is a key of SPDK's keyring.
type KeyInfo struct {
	Name string `json:"name"`
	// Removed keys are those that something holds still; nobody can authenticate with them any more.
	Removed bool `json:"removed"`
}

var keyringGetKeys = register[NoParams, []KeyInfo]("keyring_get_keys")

// KeyringGetKeys lists the keys, none of which shows its content.
func KeyringGetKeys(ctx context.Context, c Caller) ([]KeyInfo, error) {
	return keyringGetKeys.call(ctx, c, NoParams{})
}

// Methods that SPDK doesn't have: it takes keys from files of its own machine alone. Whoever has access to these, a gateway or a process on
// that machine, makes a call of SPDK's of each (KeyDir).
const (
	// MethodPutKey writes the file of a key and adds the key: PutKeyParams. A key that was added before is EEXIST; its file is written anew.
	MethodPutKey = "holdfast_put_key"
	// MethodDropKey removes the file of a key, and the key: DropKeyParams. An absent key is ENOKEY.
	MethodDropKey = "holdfast_drop_key"
)

// PutKeyParams are those of MethodPutKey.
type PutKeyParams struct {
	// Name is 1 to 64 lower-case letters, digits and dashes.
	Name string `json:"name"`
	// Key is the key's text.
	Key string `json:"key"`
}

// DropKeyParams are those of MethodDropKey.
type DropKeyParams struct {
	Name string `json:"name"`
}
