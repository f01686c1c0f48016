package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	gateway "iothub-gateway"
)

// completion is what cobra asks for what may stand where the cursor is.
type completion = func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective)

// completionLimit is how long a person waits for a suggestion at most.
const completionLimit = 2 * time.Second

// completeIdentities suggests identities of the hub for the first argument, and what next (nil: nothing)
// suggests for the others.
func completeIdentities(o *hubOptions, next func(*hubClient, []string) []string) completion {
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		hub, err := o.client()
		if err != nil || len(args) > 0 && next == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) > 0 {
			return next(hub, args), cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		return hub.identitiesLike(ctx, begun), cobra.ShellCompDirectiveNoFileComp
	}
}

// identitiesLike are the identities that begin so: devices, or after a slash the modules of one. Whatever
// goes wrong, there is nothing to suggest.
func (h *hubClient) identitiesLike(ctx context.Context, begun string) (names []string) {
	if device, _, ok := strings.Cut(begun, "/"); ok {
		modules, err := h.modules(ctx, gateway.IdentityID(device))
		if err != nil {
			return nil
		}
		for _, m := range modules {
			names = append(names, device+"/"+m.ModuleID)
		}
		return names
	}
	query := "SELECT deviceId FROM devices"
	if begun != "" {
		condition := " WHERE STARTSWITH(deviceId, '%s')"
		if h.simulated() { // whose query language has no functions, and whose answers are in order
			condition = " WHERE deviceId >= '%s'"
		}
		query += fmt.Sprintf(condition, strings.ReplaceAll(begun, "'", "''"))
	}
	var page []hubTwin
	if _, err := h.ask(ctx, hubRequest{method: http.MethodPost, path: "/devices/query?" + hubAPI, body: map[string]string{"query": query}}, &page); err != nil {
		return nil
	}
	for _, d := range page {
		if strings.HasPrefix(d.DeviceID, begun) {
			names = append(names, d.DeviceID)
		}
	}
	return names
}

// modules are those of a device (SVC-12).
func (h *hubClient) modules(ctx context.Context, device gateway.IdentityID) (all []hubDevice, err error) {
	err = h.do(ctx, http.MethodGet, "/devices/"+url.PathEscape(device.Device())+"/modules?"+hubAPI, nil, &all)
	return all, err
}

// completeMethods suggests the methods that the simulator's mapping gives to args[0].
func completeMethods(h *hubClient, args []string) []string {
	if len(args) > 1 {
		return nil
	}
	return slices.Sorted(slices.Values(h.methods[gateway.IdentityID(args[0])]))
}

// oneOf suggests fixed words.
func oneOf(words ...string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}
