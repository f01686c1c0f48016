package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	gateway "iothub-gateway"
)

// hubDevice is what the commands want to know of an entry of the registry (SVC-9, SVC-12). It holds keys:
// it is never printed as a whole.
type hubDevice struct {
	DeviceID        string    `json:"deviceId"`
	ModuleID        string    `json:"moduleId"`
	GenerationID    string    `json:"generationId"`
	ETag            string    `json:"etag"`
	ConnectionState string    `json:"connectionState"`
	Status          string    `json:"status"` // "" of a module
	StatusReason    string    `json:"statusReason"`
	LastActivity    time.Time `json:"lastActivityTime"`
	Waiting         int       `json:"cloudToDeviceMessageCount"`
	Capabilities    struct {
		IotEdge bool `json:"iotEdge"`
	} `json:"capabilities"`
	Authentication hubAuthentication `json:"authentication"`
}

// hubAuthentication is how a device proves itself: type is sas, selfSigned or certificateAuthority.
type hubAuthentication struct {
	Type         string `json:"type"`
	SymmetricKey struct {
		PrimaryKey string `json:"primaryKey,omitempty"`
	} `json:"symmetricKey"`
	X509Thumbprint struct {
		Primary   string `json:"primaryThumbprint,omitempty"`
		Secondary string `json:"secondaryThumbprint,omitempty"`
	} `json:"x509Thumbprint"`
}

// hubTwin is what the commands want to know of a twin (SVC-17).
type hubTwin struct {
	DeviceID           string    `json:"deviceId"`
	ModuleID           string    `json:"moduleId,omitempty"`
	Status             string    `json:"status,omitempty"`
	ConnectionState    string    `json:"connectionState"`
	LastActivity       time.Time `json:"lastActivityTime,omitzero"`
	Waiting            int       `json:"cloudToDeviceMessageCount"`
	AuthenticationType string    `json:"authenticationType,omitempty"`
}

func (t *hubTwin) identity() string { return strings.TrimSuffix(t.DeviceID+"/"+t.ModuleID, "/") }

// device is the registry's entry of an identity.
func (h *hubClient) device(ctx context.Context, id gateway.IdentityID) (d hubDevice, err error) {
	err = h.do(ctx, http.MethodGet, hubPath("/devices/", id)+"?"+hubAPI, nil, &d)
	return d, err
}

// add registers an identity, which must be new (SVC-8, SVC-12). Without a thumbprint or an authority the hub
// makes its keys.
func (h *hubClient) add(ctx context.Context, id gateway.IdentityID, a hubAuthentication, edge bool) (d hubDevice, err error) {
	wish := map[string]any{"deviceId": id.Device(), "authentication": a}
	if id.Module() == "" {
		wish["status"], wish["capabilities"] = "enabled", map[string]bool{"iotEdge": edge}
	} else {
		wish["moduleId"] = id.Module()
	}
	err = h.do(ctx, http.MethodPut, hubPath("/devices/", id)+"?"+hubAPI, wish, &d)
	return d, err
}

// setStatus enables or disables a device; everything else of its entry stays as it is. It fails if somebody
// else changes the entry meanwhile.
func (h *hubClient) setStatus(ctx context.Context, id gateway.IdentityID, status, reason string) error {
	path := hubPath("/devices/", id) + "?" + hubAPI
	var entry map[string]json.RawMessage
	if err := h.do(ctx, http.MethodGet, path, nil, &entry); err != nil {
		return err
	}
	var etag string
	if err := json.Unmarshal(entry["etag"], &etag); err != nil {
		return fmt.Errorf("hub %s: the entry of %s has no etag", h.host, id)
	}
	for name, value := range map[string]string{"status": status, "statusReason": reason} {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		entry[name] = text
	}
	_, err := h.ask(ctx, hubRequest{method: http.MethodPut, path: path, header: ifMatch(etag), body: entry}, nil)
	return err
}

// remove deletes an identity, whatever its etag is.
func (h *hubClient) remove(ctx context.Context, id gateway.IdentityID) error {
	_, err := h.ask(ctx, hubRequest{method: http.MethodDelete, path: hubPath("/devices/", id) + "?" + hubAPI, header: ifMatch("*")}, nil)
	return err
}

// ifMatch is the header of SVC-7.
func ifMatch(etag string) http.Header {
	return http.Header{"If-Match": {`"` + strings.Trim(etag, `"`) + `"`}}
}

// query calls each with every twin that the query selects (SVC-20).
func (h *hubClient) query(ctx context.Context, query string, each func(hubTwin) error) error {
	return pages(ctx, h, hubRequest{method: http.MethodPost, path: "/devices/query?" + hubAPI, body: map[string]string{"query": query}}, each)
}

// pages calls each with every element of a request's answer, page by page.
func pages[T any](ctx context.Context, h *hubClient, r hubRequest, each func(T) error) error {
	r.header = http.Header{}
	for {
		var page []T
		got, err := h.ask(ctx, r, &page)
		if err != nil {
			return err
		}
		for _, one := range page {
			if err := each(one); err != nil {
				return err
			}
		}
		next := got.Get("x-ms-continuation")
		if next == "" {
			return nil
		}
		r.header.Set("x-ms-continuation", next)
	}
}

// connectionStringOf is what an SDK of the identity wants to know.
func (h *hubClient) connectionStringOf(d hubDevice) string {
	name := strings.TrimSuffix(d.DeviceID+"/"+d.ModuleID, "/")
	return deviceConnectionString(h.host, h.mqtt, name, d.Authentication.SymmetricKey.PrimaryKey)
}
