package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// requestTimeout bounds one request.
const requestTimeout = 10 * time.Second

// Store is a store that another process serves. It implements volume.Store.
type Store struct {
	client *http.Client
	base   string
}

var _ volume.Store = (*Store)(nil)

// New returns the store served at unix:///path or tls://host:port. Nothing is dialled before it is used.
func New(address string, files spdk.TLSFiles) (*Store, error) {
	dial, err := spdk.Dialer(address, files)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
	// The dialer speaks TLS where the address asks for it, so that the transport doesn't have to.
	return &Store{client: &http.Client{Transport: transport, Timeout: requestTimeout}, base: "http://store"}, nil
}

// Close lets go of idle connections.
func (s *Store) Close() { s.client.CloseIdleConnections() }

// Get implements volume.Store.
func (s *Store) Get(ctx context.Context, id string) (*volume.Volume, error) {
	var r record
	if err := s.call(ctx, http.MethodGet, pathVolumes+"/"+url.PathEscape(id), nil, &r); err != nil {
		return nil, err
	}
	return r.unpack(), nil
}

// Create implements volume.Store.
func (s *Store) Create(ctx context.Context, v *volume.Volume) error {
	return s.write(ctx, http.MethodPost, v)
}

// Update implements volume.Store.
func (s *Store) Update(ctx context.Context, v *volume.Volume) error {
	return s.write(ctx, http.MethodPut, v)
}

// Delete implements volume.Store.
func (s *Store) Delete(ctx context.Context, v *volume.Volume) error {
	var r record
	return s.call(ctx, http.MethodDelete, pathVolumes, pack(v), &r)
}

func (s *Store) write(ctx context.Context, method string, v *volume.Volume) error {
	var r record
	if err := s.call(ctx, method, pathVolumes, pack(v), &r); err != nil {
		return err
	}
	v.Revision = r.Revision
	return nil
}

// List implements volume.Store.
func (s *Store) List(ctx context.Context, after string, limit int) ([]*volume.Volume, error) {
	query := url.Values{"after": {after}, "limit": {strconv.Itoa(limit)}}
	var records []record
	if err := s.call(ctx, http.MethodGet, pathVolumes+"?"+query.Encode(), nil, &records); err != nil {
		return nil, err
	}
	volumes := make([]*volume.Volume, 0, len(records))
	for _, r := range records {
		volumes = append(volumes, r.unpack())
	}
	return volumes, nil
}

// Host implements volume.Store.
func (s *Store) Host(ctx context.Context, name string) (volume.Host, error) {
	var h volume.Host
	err := s.call(ctx, http.MethodGet, pathHosts+"/"+url.PathEscape(name), nil, &h)
	return h, err
}

// PutHost implements volume.Store.
func (s *Store) PutHost(ctx context.Context, h volume.Host) error {
	return s.call(ctx, http.MethodPut, pathHosts, h, &h)
}

// call sends one request. A failure that the store answered is its sentinel; one of the connection leaves the outcome of a write
// unknown, and compare-and-swap makes the repetition safe.
func (s *Store) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode the record: %w", err)
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, body)
	if err != nil {
		return fmt.Errorf("ask the store: %w", err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the store: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			return fmt.Errorf("the store's answer can't be decoded: %w", err)
		}
		return nil
	case http.StatusConflict:
		answer := &remoteError{}
		if err := json.NewDecoder(resp.Body).Decode(&answer.failure); err != nil {
			return fmt.Errorf("the store's answer can't be decoded: %w", err)
		}
		return answer
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return errors.Join(fmt.Errorf("the store answers %s: %s", resp.Status, strings.TrimSpace(string(text))), err)
}
