package mapping

import "testing"

func TestTheTierOfTheHubIsOneThatThereIs(t *testing.T) {
	withHub := func(keys string) string {
		return "version: 1\nhub: { host: h.example, " + keys + " }\n" + oneDevice
	}
	for keys, want := range map[string]Hub{
		"transport: mqtt":      {},
		"tier: S1":             {Tier: "S1", Units: 1},
		"tier: F1, units: 1":   {Tier: "F1", Units: 1},
		"units: 200, tier: B3": {Tier: "B3", Units: 200},
	} {
		plant := check(t, withHub(keys))
		if plant == nil || plant.Hub.Tier != want.Tier || plant.Hub.Units != want.Units {
			t.Errorf("%s: %+v", keys, plant)
		}
	}
	for keys, want := range map[string]string{
		"tier: S4":             "2:31 E009",
		"tier: s1":             "2:31 E009",
		"tier: S1, units: 0":   "2:42 E009",
		"tier: S1, units: 201": "2:42 E009",
		"tier: F1, units: 2":   "2:42 E009",
		"units: 2":             "2:25 E009",
	} {
		check(t, withHub(keys), want)
	}
}
