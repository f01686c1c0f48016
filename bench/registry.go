package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/identity"
)

const (
	registryDevices = 10_000
	registryFloors  = 100 // that the devices' tags tell apart
)

// registryFigures are how fast the simulated hub answers about many devices.
func registryFigures() []figure {
	var all []figure
	for _, f := range []struct {
		name, what string
		ask        func(*registryHub, context.Context) (int, error)
		want       int
	}{
		{"registry_list", "all of them listed by GET /hubsim/devices", (*registryHub).list, registryDevices},
		{"registry_query", "a query with a condition on tags and desired properties that a hundredth of them meets", (*registryHub).query, registryDevices / registryFloors},
		{"registry_pages", "SELECT * FROM devices, all of them in pages of 1000 whole twins", (*registryHub).pages, registryDevices},
	} {
		all = append(all, figure{
			name: f.name, unit: "ms", target: "at most 1",
			what:    fmt.Sprintf("a simulated hub with %d devices that have tags and desired properties, over HTTPS: %s, until the last byte is decoded", registryDevices, f.what),
			limitIs: "the second that is promised",
			limit:   fixed(1000),
			value: plain(func(ctx context.Context) (float64, error) {
				return registryTime(ctx, f.ask, f.want)
			}),
		})
	}
	return all
}

// registryHub is a hub with many devices, and an application that asks about them.
type registryHub struct {
	base, token string
	client      *http.Client
}

// registryTime is how long an application waits for an answer about want devices, in ms.
func registryTime(ctx context.Context, ask func(*registryHub, context.Context) (int, error), want int) (ms float64, err error) {
	hub, err := hubsim.New(hubsim.Config{})
	if err != nil {
		return 0, err
	}
	stop := background(hub.Run)
	defer func() { err = errors.Join(err, stop()) }()
	_, key, _ := strings.Cut(hub.ServiceConnectionString(), "SharedAccessKey=")
	token, err := identity.ServiceToken("localhost", "iothubowner", identity.NewSecret(key), time.Now().Add(time.Hour))
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: hub.CAPool(), ServerName: "localhost"}}
	defer transport.CloseIdleConnections()
	r := &registryHub{"https://" + hub.HTTPSAddr(), token.Reveal(), &http.Client{Transport: transport}}
	if err := r.fill(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	got, err := ask(r, ctx)
	took := time.Since(start)
	if err == nil && got != want {
		err = fmt.Errorf("%d devices in the answer, want %d", got, want)
	}
	return float64(took.Microseconds()) / 1000, err
}

// fill registers the devices, a hundred a request.
func (r *registryHub) fill(ctx context.Context) error {
	for i := 0; i < registryDevices; i += 100 {
		var batch []map[string]any
		for n := i; n < i+100; n++ {
			batch = append(batch, map[string]any{
				"id": fmt.Sprintf("dev%05d", n), "importMode": "create",
				"tags":       map[string]any{"site": "plant 7", "floor": n % registryFloors},
				"properties": map[string]any{"desired": map[string]any{"interval": 10, "limits": map[string]any{"low": 1, "high": 99}}},
			})
		}
		if _, err := r.do(ctx, "POST", "/devices?api-version=2021-04-12", batch, nil); err != nil {
			return err
		}
	}
	return nil
}

func (r *registryHub) list(ctx context.Context) (int, error) {
	text, err := r.do(ctx, "GET", "/hubsim/devices", nil, nil)
	return count(text, err)
}

func (r *registryHub) query(ctx context.Context) (int, error) {
	text, err := r.ask(ctx, "SELECT * FROM devices WHERE tags.floor = 7 AND properties.desired.limits.high > 50", http.Header{})
	return count(text, err)
}

func (r *registryHub) pages(ctx context.Context) (total int, err error) {
	header := http.Header{}
	for {
		n, err := count(r.ask(ctx, "SELECT * FROM devices", header))
		if total += n; err != nil || header.Get("x-ms-continuation") == "" {
			return total, err
		}
	}
}

// ask sends a query for a page of 1000; header brings and takes where it goes on.
func (r *registryHub) ask(ctx context.Context, query string, header http.Header) ([]byte, error) {
	header.Set("x-ms-max-item-count", "1000")
	return r.do(ctx, "POST", "/devices/query?api-version=2021-04-12", map[string]string{"query": query}, header)
}

// count is how many items an answer has.
func count(text []byte, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	var all []map[string]any
	err = json.Unmarshal(text, &all)
	return len(all), err
}

// do sends a request, which carries header, and puts the answer's continuation there.
func (r *registryHub) do(ctx context.Context, method, path string, body any, header http.Header) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for name := range header {
		request.Header.Set(name, header.Get(name))
	}
	request.Header.Set("Authorization", r.token)
	response, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %.200s", method, path, response.Status, answer)
	}
	if header != nil {
		header.Set("x-ms-continuation", response.Header.Get("x-ms-continuation"))
	}
	return answer, err
}
