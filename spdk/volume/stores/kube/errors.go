package kube

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// failure makes an error of the API server the domain's where it is one. name is of the object that was asked for, absent what its absence is.
//
// That the API server doesn't serve the kind at all, as when the CRDs are not installed, is "not found" too, and must never be taken for
// the absence of a record: only an answer that names the object says that.
func failure(err error, name string, absent error) error {
	reason := apierrors.ReasonForError(err)
	switch {
	case err == nil:
		return nil
	case reason == metav1.StatusReasonNotFound && names(err, name):
		return absent
	case reason == metav1.StatusReasonNotFound:
		return fmt.Errorf("the API server doesn't serve this kind of object: install the CRDs of this version (deploy/crds): %w", err)
	case reason == metav1.StatusReasonAlreadyExists:
		return volume.ErrExists
	case reason == metav1.StatusReasonConflict:
		return fmt.Errorf("%w: %w", volume.ErrConflict, err)
	case reason == metav1.StatusReasonForbidden || reason == metav1.StatusReasonUnauthorized:
		return fmt.Errorf("the API server doesn't let this process: docs/kubernetes.md lists what its service account needs: %w", err)
	case reason == metav1.StatusReasonInvalid || reason == metav1.StatusReasonBadRequest:
		return fmt.Errorf("the API server refuses the record: install the CRDs of this version (deploy/crds): %w", err)
	}
	return err
}

// names says whether an answer is about the object of that name.
func names(err error, name string) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Name == name &&
		!apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}
