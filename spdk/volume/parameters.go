package volume

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

// Keys of StorageClass parameters.
const (
	ParamReplicas           = "replicas"
	ParamThin               = "thin"
	ParamLvStore            = "lvstore"
	ParamNodeSelector       = "nodeSelector"
	ParamFSType             = "fsType"
	ParamReplicaStallBudget = "replicaStallBudget"
	ParamTargetLossBudget   = "targetLossBudget"
	ParamStandby            = "standby"
	ParamReplaceAfter       = "replaceAfter"
	ParamAccess             = "access"
	ParamEncryption         = "encryption"
	ParamMkfsOptions        = "mkfsOptions"
	ParamReservedBlocks     = "reservedBlocksPercent"
	ParamTrimInterval       = "trimInterval"
	ParamReplicaKey         = "replicaKey"
	ParamHostKey            = "hostKey"
)

// Keys of parameters that may change while the volume is there, in a VolumeAttributesClass; ParamReplicas is one, too.
const (
	ParamIOPSLimit           = "iopsLimit"
	ParamBandwidthLimit      = "bandwidthLimit"
	ParamReadBandwidthLimit  = "readBandwidthLimit"
	ParamWriteBandwidthLimit = "writeBandwidthLimit"
)

// Limits and defaults of parameters.
const (
	MaxReplicas     = 8
	DefaultReplicas = 3
	DefaultFSType   = "ext4"
	// DefaultReplaceAfter is longer than a reboot: a replica that comes back is rebuilt where it is.
	DefaultReplaceAfter = 10 * time.Minute
	// leastTrimInterval keeps a volume from being trimmed all the time.
	leastTrimInterval = time.Minute
)

// reservedPrefix starts the keys that Kubernetes' sidecars add of their own; they are not ours to judge.
const reservedPrefix = "csi.storage.k8s.io/"

// IsReserved says whether a parameter of a class is one that Kubernetes' sidecars add of their own.
func IsReserved(key string) bool { return strings.HasPrefix(key, reservedPrefix) }

// Parameters are a StorageClass's, validated, with defaults filled in. Those of mutableParameters may change, the others belong to the
// volume for good.
type Parameters struct {
	// Replicas is how many copies there are to be, on as many SPDK nodes: 1 to MaxReplicas.
	Replicas int `json:"replicas"`
	// Thin lvols take up clusters as they are written.
	Thin bool `json:"thin"`
	// LvStore restricts placement to lvstores of this name; "" is any.
	LvStore string `json:"lvstore,omitempty"`
	// NodeSelector restricts placement to SPDK nodes that carry these labels.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// FSType is the file system where the claim names none: ext4 or xfs.
	FSType string `json:"fsType"`
	// Budgets bound what a failure may cost.
	Budgets timeouts.Budgets `json:"budgets"`
	// Standby keeps a second assembly ready while the volume is in use, so that the loss of the raid host costs a short pause.
	Standby bool `json:"standby"`
	// ReplaceAfter is how long a lost replica may stay away before another takes its place.
	ReplaceAfter time.Duration `json:"replaceAfter"`
	// Access is from where the volume may be used.
	Access Access `json:"access,omitempty"`
	// Encryption is what the host does to what it writes.
	Encryption Encryption `json:"encryption,omitempty"`
	// MkfsOptions are given to mkfs besides the driver's own: of ext4 or xfs, as FSType or the claim says.
	MkfsOptions []string `json:"mkfsOptions,omitempty"`
	// ReservedBlocksPercent is how much of an ext4 only root may use, of a volume's file system 0 unless asked for.
	ReservedBlocksPercent int `json:"reservedBlocksPercent,omitempty"`
	// TrimInterval is how often what is free in the file system is discarded while the volume is staged; 0 is never.
	TrimInterval time.Duration `json:"trimInterval,omitempty"`
	// ReplicaKey is the configuration's name of the key that the replicas and the raid hosts authenticate to each other with; "" is without.
	ReplicaKey string `json:"replicaKey,omitempty"`
	// HostKey is the configuration's name of the key that the volume's target and its hosts authenticate to each other with; "" is without.
	HostKey string `json:"hostKey,omitempty"`
	// Limits bound the hosts' I/O.
	Limits Limits `json:"limits,omitzero"`
}

func (p Parameters) clone() Parameters {
	p.NodeSelector = maps.Clone(p.NodeSelector)
	p.MkfsOptions = slices.Clone(p.MkfsOptions)
	return p
}

// Equal says whether two sets of parameters ask for the same volume.
func (p Parameters) Equal(q Parameters) bool {
	return p.Replicas == q.Replicas && p.Limits == q.Limits && p.EqualButMutable(q)
}

// EqualButMutable says whether two sets of parameters ask for the same volume but for what may change while it is there.
func (p Parameters) EqualButMutable(q Parameters) bool {
	return p.Thin == q.Thin && p.LvStore == q.LvStore && p.FSType == q.FSType &&
		p.Budgets == q.Budgets && p.Standby == q.Standby && p.Access.orDefault() == q.Access.orDefault() && p.ReplaceAfter == q.ReplaceAfter &&
		p.SameEncryption(q.Encryption) &&
		slices.Equal(p.MkfsOptions, q.MkfsOptions) && p.ReservedBlocksPercent == q.ReservedBlocksPercent && p.TrimInterval == q.TrimInterval &&
		p.ReplicaKey == q.ReplicaKey && p.HostKey == q.HostKey && maps.Equal(p.NodeSelector, q.NodeSelector)
}

// ParseParameters validates StorageClass parameters. An error names the key, the value and what it may be.
func ParseParameters(raw map[string]string) (Parameters, error) { return ParseClasses(raw, nil) }

// ParseClasses does the same with the parameters of a VolumeAttributesClass besides, which take precedence.
func ParseClasses(raw, mutable map[string]string) (Parameters, error) {
	p := Parameters{Replicas: DefaultReplicas, Thin: true, FSType: DefaultFSType, Budgets: timeouts.DefaultBudgets(), Standby: true, ReplaceAfter: DefaultReplaceAfter, Access: AccessAnywhere, Encryption: EncryptionNone}
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		if err := p.set(key, raw[key]); err != nil {
			return Parameters{}, fmt.Errorf("parameter %s=%q: %w", key, raw[key], err)
		}
	}
	if _, err := timeouts.Derive(p.Budgets); err != nil {
		return Parameters{}, fmt.Errorf("parameters %s and %s: %w", ParamReplicaStallBudget, ParamTargetLossBudget, err)
	}
	if err := p.CheckMkfs(p.FSType); err != nil {
		return Parameters{}, err
	}
	return p.Modified(mutable)
}

// Modified returns the parameters with those of a VolumeAttributesClass in their place; what it doesn't name stays as it is. An error names
// the key, the value and what it may be.
func (p Parameters) Modified(mutable map[string]string) (Parameters, error) {
	for _, key := range slices.Sorted(maps.Keys(mutable)) {
		if IsReserved(key) {
			continue
		}
		if !slices.Contains(mutableParameters, key) {
			what := "no such parameter"
			if slices.Contains(knownParameters, key) {
				what = "it belongs to the volume for good"
			}
			return Parameters{}, fmt.Errorf("mutable parameter %s=%q: %s; those that may change are %s", key, mutable[key], what, strings.Join(mutableParameters, ", "))
		}
		if err := p.set(key, mutable[key]); err != nil {
			return Parameters{}, fmt.Errorf("mutable parameter %s=%q: %w", key, mutable[key], err)
		}
	}
	return p, p.checkLimits()
}

func (p *Parameters) set(key, value string) error {
	var err error
	switch key {
	case ParamReplicas:
		n, bad := strconv.Atoi(value)
		if bad != nil || n < 1 || n > MaxReplicas {
			return fmt.Errorf("must be a whole number from 1 to %d", MaxReplicas)
		}
		p.Replicas = n
	case ParamThin:
		if p.Thin, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("must be true or false")
		}
	case ParamLvStore:
		if value == "" || len(value) > maxObjectName || strings.ContainsAny(value, "/ \t\n") {
			return fmt.Errorf("must be the name of an lvstore: 1 to %d characters without spaces and slashes", maxObjectName)
		}
		p.LvStore = value
	case ParamNodeSelector:
		p.NodeSelector, err = parseSelector(value)
	case ParamFSType:
		if !ValidFSType(value) {
			return fmt.Errorf("must be ext4 or xfs")
		}
		p.FSType = value
	case ParamReplicaStallBudget:
		p.Budgets.ReplicaStall, err = parseSeconds(value)
	case ParamTargetLossBudget:
		p.Budgets.TargetLoss, err = parseSeconds(value)
	case ParamStandby:
		if p.Standby, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("must be true or false")
		}
	case ParamReplaceAfter:
		p.ReplaceAfter, err = parseSeconds(value)
	case ParamAccess:
		if p.Access = Access(value); p.Access != AccessAnywhere && p.Access != AccessZone {
			return fmt.Errorf("must be %s or %s", AccessAnywhere, AccessZone)
		}
	case ParamEncryption:
		if p.Encryption = Encryption(value); p.Encryption != EncryptionNone && p.Encryption != EncryptionLUKS2 {
			return fmt.Errorf("must be %s or %s", EncryptionNone, EncryptionLUKS2)
		}
	case ParamMkfsOptions:
		p.MkfsOptions = strings.Fields(value)
	case ParamReservedBlocks:
		n, bad := strconv.Atoi(value)
		if bad != nil || n < 0 || n > maxReservedPercent {
			return fmt.Errorf("must be a whole number from 0 to %d", maxReservedPercent)
		}
		p.ReservedBlocksPercent = n
	case ParamTrimInterval:
		if p.TrimInterval, err = parseSeconds(value); err == nil && p.TrimInterval < leastTrimInterval {
			return fmt.Errorf("must be a duration of whole seconds, %s or longer, such as 24h; without it nothing is trimmed", leastTrimInterval)
		}
	case ParamReplicaKey:
		p.ReplicaKey, err = parseKeyName(value)
	case ParamHostKey:
		p.HostKey, err = parseKeyName(value)
	case ParamIOPSLimit:
		p.Limits.IOPS, err = parseIOPS(value)
	case ParamBandwidthLimit:
		p.Limits.Bandwidth, err = parseBandwidth(value)
	case ParamReadBandwidthLimit:
		p.Limits.ReadBandwidth, err = parseBandwidth(value)
	case ParamWriteBandwidthLimit:
		p.Limits.WriteBandwidth, err = parseBandwidth(value)
	default:
		if !IsReserved(key) {
			return fmt.Errorf("no such parameter; there are %s", strings.Join(knownParameters, ", "))
		}
	}
	return err
}

// ValidFSType says whether volumes can carry this file system.
func ValidFSType(s string) bool { return s == "ext4" || s == "xfs" }

var (
	mutableParameters = []string{ParamReplicas, ParamIOPSLimit, ParamBandwidthLimit, ParamReadBandwidthLimit, ParamWriteBandwidthLimit}
	knownParameters   = append([]string{
		ParamThin, ParamLvStore, ParamNodeSelector, ParamFSType, ParamReplicaStallBudget, ParamTargetLossBudget, ParamStandby, ParamReplaceAfter, ParamAccess, ParamEncryption,
		ParamMkfsOptions, ParamReservedBlocks, ParamTrimInterval, ParamReplicaKey, ParamHostKey,
	}, mutableParameters...)
)

// parseKeyName reads the name of a secret.
func parseKeyName(s string) (string, error) {
	if !ValidSegment(s) {
		return "", fmt.Errorf("must be the name of one of replicaKeys in the configuration file")
	}
	return s, nil
}

// parseSelector reads "key=value,key=value".
func parseSelector(s string) (map[string]string, error) {
	labels := map[string]string{}
	for _, part := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || key == "" || value == "" {
			return nil, fmt.Errorf("must be labels of SPDK nodes as key=value,key=value")
		}
		if _, twice := labels[key]; twice {
			return nil, fmt.Errorf("names label %q twice", key)
		}
		labels[key] = value
	}
	return labels, nil
}

func parseSeconds(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d%time.Second != 0 {
		return 0, fmt.Errorf("must be a duration of whole seconds such as 10s or 5m")
	}
	return d, nil
}
