package volume

import "strings"

// Lvols are lvols of which records speak, as "node/lvstore/name".
type Lvols map[string]bool

// NamedLvols returns all lvols of which volumes and snapshots speak.
func NamedLvols(volumes []*Volume, snapshots []*Snapshot) Lvols {
	named := Lvols{}
	add := func(node, lvstore, name string) { named[node+"/"+lvstore+"/"+name] = true }
	for _, v := range volumes {
		for _, r := range v.Replicas {
			add(r.Node, r.LvStore, v.LvolName(r))
		}
		if wish := v.Snapshot; wish != nil {
			for _, l := range wish.Replicas {
				add(l.Node, l.LvStore, SnapshotLvolName(wish.UUID, l.ID))
			}
		}
	}
	for _, sn := range snapshots {
		for _, l := range sn.Replicas {
			add(l.Node, l.LvStore, sn.LvolName(l))
		}
	}
	return named
}

// Orphan says whether an lvol has a name of Holdfast's and no record speaks of it.
func (l Lvols) Orphan(node, lvstore, name string) bool {
	return strings.HasPrefix(name, ObjectPrefix) && !l[node+"/"+lvstore+"/"+name]
}
