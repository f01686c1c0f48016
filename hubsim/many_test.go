package hubsim_test

import (
	"fmt"
	"testing"
)

// A test suite starts a hub for each of its tests: hundreds of them must fit into one process.
func TestHundredsOfHubsRunInOneProcess(t *testing.T) {
	hubs := make([]*testHub, 300)
	for i := range hubs {
		hubs[i] = startHub(t, hubConfig())
	}
	clients := make([]*rawClient, len(hubs))
	for i, hub := range hubs { // all have a device of the same id connected at once
		clients[i] = hub.rawConnected(t, "dev1", true)
		clients[i].publish(dev1Events, 1, 1, fmt.Sprint(i))
		clients[i].expectPuback(1)
	}
	for i, hub := range hubs {
		clients[i].alive()
		if all := hub.Messages(0, 0); len(all) != 1 || string(all[0].Body) != fmt.Sprint(i) {
			t.Errorf("hub %d has %+v", i, all)
		}
	}
}
