package hubsim_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const queryPath = "/devices/query" + apiVersion

// page asks for a page of a query and returns the names in it, and where it goes on.
func (r *rest) page(query, size, from string) (names []string, next string) {
	r.t.Helper()
	r.send = map[string]string{"x-ms-max-item-count": size, "x-ms-continuation": from}
	defer func() { r.send = nil }()
	body, err := json.Marshal(map[string]string{"query": query})
	if err != nil {
		r.t.Fatal(err)
	}
	status, code, answer := r.do("POST", queryPath, string(body))
	var items []struct{ DeviceID, ModuleID string }
	if err := json.Unmarshal([]byte(answer), &items); err != nil || status != 200 {
		r.t.Fatalf("%s: %d %s %s", query, status, code, answer)
	}
	for _, item := range items {
		names = append(names, strings.TrimSuffix(item.DeviceID+"/"+item.ModuleID, "/"))
	}
	return names, r.got.Get("x-ms-continuation")
}

func TestAQueryIsAnsweredInPages(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	want := map[string][]string{}
	for i := range 12 {
		device := fmt.Sprintf("d%02d", i)
		if _, err := hub.Register(device, "m"); err != nil {
			t.Fatal(err)
		}
		want["devices"] = append(want["devices"], device)
		want["devices.modules"] = append(want["devices.modules"], device+"/m")
		if i%2 == 0 {
			service.change("PATCH", "/twins/"+device+apiVersion, `{"tags":{"even":true}}`)
			want["devices WHERE tags.even"] = append(want["devices WHERE tags.even"], device)
		}
	}
	for from, all := range want {
		for _, size := range []int{1, 4, 5, 6, 12, 100} {
			var got []string
			next, pages := "", 0
			for pages == 0 || next != "" {
				var names []string
				names, next = service.page("SELECT * FROM "+from, fmt.Sprint(size), next)
				got, pages = append(got, names...), pages+1
				if kind := service.got.Get("x-ms-item-type"); kind != "Twin" {
					t.Errorf("the items are %q", kind)
				}
				if len(names) > size || next != "" && len(names) != size {
					t.Errorf("%s: a page of %d, then more: %q", from, len(names), next)
				}
			}
			if wantPages := (len(all) + size - 1) / size; pages != wantPages || !slices.Equal(got, all) {
				t.Errorf("%s in pages of %d: %d pages, %v", from, size, pages, got)
			}
		}
	}
	// Between two pages devices come and go.
	first, next := service.page("SELECT deviceId FROM devices", "3", "")
	if kind := service.got.Get("x-ms-item-type"); kind != "Raw" {
		t.Errorf("fields are %q", kind)
	}
	for _, gone := range []string{"d02", "d03"} {
		if err := hub.Unregister(gone, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, fresh := range []string{"d00x", "d03x"} {
		if _, err := hub.Register(fresh, ""); err != nil {
			t.Fatal(err)
		}
	}
	second, _ := service.page("SELECT deviceId FROM devices", "3", next)
	if got := append(first, second...); !slices.Equal(got, []string{"d00", "d01", "d02", "d03x", "d04", "d05"}) {
		t.Errorf("pages while devices come and go: %v", got)
	}
}

func TestABadPageOrQueryIsRefused(t *testing.T) {
	hub := startHub(t, hubConfig())
	service := hub.rest(t)
	for _, device := range []string{"d1", "d2"} {
		if _, err := hub.Register(device, ""); err != nil {
			t.Fatal(err)
		}
	}
	_, next := service.page("SELECT * FROM devices", "1", "")
	good := `{"query":"SELECT * FROM devices.modules"}`
	for _, headers := range []map[string]string{
		{"x-ms-continuation": next}, {"x-ms-continuation": "nonsense"}, {"x-ms-continuation": "e30="},
		{"x-ms-max-item-count": "0"}, {"x-ms-max-item-count": "-1"}, {"x-ms-max-item-count": "many"},
	} {
		service.send = headers
		service.refused("POST", queryPath, good, 400, "ArgumentInvalid", "x-ms-")
	}
	service.send = nil
	service.refused("POST", queryPath, `{"query":"SELECT * FROM devices WHERE"}`, 400, "ArgumentInvalid", "the query at character 28")
	service.refused("POST", queryPath, ``, 400, "ArgumentInvalid", "SELECT is wanted")
	service.refused("POST", queryPath, `{"query":7}`, 400, "ArgumentInvalid", "query cannot be a number")
	service.refused("POST", "/devices/query", good, 400, "InvalidProtocolVersion", "")
}
