package kube

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// inMetadata are the fields of a record that the object's metadata hold: its name and its resourceVersion.
var inMetadata = []string{"ID", "Revision"}

// Types whose form in a resource differs from that in a record.
var (
	timeType         = reflect.TypeFor[time.Time]()
	uuidType         = reflect.TypeFor[uuid.UUID]()
	durationType     = reflect.TypeFor[time.Duration]()
	metaDurationType = reflect.TypeFor[metav1.Duration]()
)

// convert sets dst, which is settable, to what src says: record to resource or the reverse. The fields of structs are matched by their names,
// so that the two sides can't be mixed up, and a field that only one of them has is an error rather than lost.
func convert(dst, src reflect.Value) error {
	switch {
	case src.Type() == timeType:
		if t := src.Interface().(time.Time); !t.IsZero() {
			dst.SetString(t.Format(time.RFC3339Nano))
		}
		return nil
	case dst.Type() == timeType:
		if src.Len() == 0 {
			return nil
		}
		t, err := time.Parse(time.RFC3339Nano, src.String())
		dst.Set(reflect.ValueOf(t))
		return err
	case src.Type() == uuidType:
		dst.SetString(src.Interface().(uuid.UUID).String())
		return nil
	case dst.Type() == uuidType:
		id, err := uuid.Parse(src.String())
		dst.Set(reflect.ValueOf(id))
		return err
	case src.Type() == durationType && dst.Type() == metaDurationType:
		dst.Set(reflect.ValueOf(metav1.Duration{Duration: src.Interface().(time.Duration)}))
		return nil
	case src.Type() == metaDurationType && dst.Type() == durationType:
		dst.SetInt(int64(src.Interface().(metav1.Duration).Duration))
		return nil
	}
	return convertKind(dst, src)
}

func convertKind(dst, src reflect.Value) error {
	from, to := src.Kind(), dst.Kind()
	switch {
	case from == reflect.Pointer && src.IsNil(), to == reflect.Pointer && src.IsZero():
		return nil
	case from == reflect.Pointer:
		return convert(dst, src.Elem())
	case to == reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		return convert(dst.Elem(), src)
	case from == reflect.Struct && to == reflect.Struct:
		return convertFields(dst, src)
	case from == reflect.Slice && to == reflect.Slice:
		return convertSlice(dst, src)
	case from == to && src.CanConvert(dst.Type()), isInteger(from) && isInteger(to):
		dst.Set(src.Convert(dst.Type()))
		return nil
	}
	return fmt.Errorf("%s has no form as %s", src.Type(), dst.Type())
}

func isInteger(k reflect.Kind) bool { return k >= reflect.Int && k <= reflect.Uint64 }

func convertFields(dst, src reflect.Value) error {
	for _, pair := range [][2]reflect.Type{{src.Type(), dst.Type()}, {dst.Type(), src.Type()}} {
		for field := range pair[0].Fields() {
			if _, known := pair[1].FieldByName(field.Name); !known && !onOneSide(pair[0], field.Name) {
				return fmt.Errorf("%s has field %s and %s does not", pair[0], field.Name, pair[1])
			}
		}
	}
	for field := range dst.Type().Fields() {
		if onOneSide(dst.Type(), field.Name) {
			continue
		}
		if err := convert(dst.FieldByIndex(field.Index), src.FieldByName(field.Name)); err != nil {
			return fmt.Errorf("%s: %w", field.Name, err)
		}
	}
	return nil
}

// onOneSide says whether a field has no counterpart: one of a record that is in the metadata, or one of a resource that follows from the others.
func onOneSide(t reflect.Type, field string) bool {
	switch t {
	case reflect.TypeFor[volume.Volume](), reflect.TypeFor[volume.Snapshot]():
		return slices.Contains(inMetadata, field)
	case reflect.TypeFor[v1alpha1.VolumeSpec]():
		return field == "GuestsWanted"
	}
	return false
}

func convertSlice(dst, src reflect.Value) error {
	if src.IsNil() {
		return nil
	}
	dst.Set(reflect.MakeSlice(dst.Type(), src.Len(), src.Len()))
	for i := range src.Len() {
		if err := convert(dst.Index(i), src.Index(i)); err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return nil
}

// fill sets *dst to what *src says.
func fill(dst, src any) error {
	return convert(reflect.ValueOf(dst).Elem(), reflect.ValueOf(src).Elem())
}

// putVolume makes a resource's spec what a record says.
func putVolume(o *v1alpha1.Volume, v *volume.Volume) error {
	o.Spec.GuestsWanted = slices.ContainsFunc(v.Wanted(), func(node string) bool { return node != v.Owner })
	return fill(&o.Spec, v)
}

// volumeOf returns the record that a resource is.
func volumeOf(o *v1alpha1.Volume) (*volume.Volume, error) {
	v := &volume.Volume{ID: o.Name}
	err := fill(v, &o.Spec)
	if err == nil {
		v.Revision, err = revisionOf(o)
	}
	return v, err
}

// snapshotOf returns the record that a resource is.
func snapshotOf(o *v1alpha1.Snapshot) (*volume.Snapshot, error) {
	s := &volume.Snapshot{ID: o.Name}
	err := fill(s, &o.Spec)
	if err == nil {
		s.Revision, err = revisionOf(o)
	}
	return s, err
}

// revisionOf is the object's resourceVersion, a decimal number for custom resources (Kubernetes' API concepts, "Resource versions").
func revisionOf(o metav1.Object) (uint64, error) {
	revision, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("its resourceVersion is no number: %w", err)
	}
	return revision, nil
}

func resourceVersion(revision uint64) string { return strconv.FormatUint(revision, 10) }
