package hubsim

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// queriedTwin is a row to ask about.
func queriedTwin(t testing.TB) *queryRow {
	t.Helper()
	row := &queryRow{id: &identity{}, reg: newRegistration("dev1", ""), twin: freshTwin()}
	row.id.registration = row.reg
	row.reg.StatusReason, row.reg.Edge = "why", true
	row.id.active.Store(time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC).UnixNano())
	for _, text := range []string{
		`{"tags":{"site":"Oslo","floor":-2,"open":true,"shut":false,"my-key":"x","select":1,"a b":0,"list":[1],"deep":{"er":{"est":7}}}}`,
		`{"properties":{"desired":{"interval":10.5,"name":"it's"}}}`,
	} {
		e, err := parseEdit([]byte(strings.ReplaceAll(text, `"a b":0,`, "")), false)
		if err == nil {
			err = row.twin.apply(e, time.Unix(1_700_000_000, 0))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return row
}

func TestAQueryFindsWhatItsConditionSays(t *testing.T) {
	row := queriedTwin(t)
	for condition, want := range map[string]truth{
		"deviceId = 'dev1'":                             yes,
		"deviceId = 'DEV1'":                             no,
		"'dev1' = deviceId":                             yes,
		"deviceId != 'dev1'":                            no,
		"deviceId <> 'x'":                               yes,
		"deviceId < 'dev2' AND deviceId >= 'dev'":       yes,
		"status = 'enabled'":                            yes,
		"statusReason = 'why'":                          yes,
		"connectionState = 'Disconnected'":              yes,
		"cloudToDeviceMessageCount = 0":                 yes,
		"authenticationType = 'sas'":                    yes,
		"version > 3":                                   yes,
		"capabilities.iotEdge = true":                   yes,
		"capabilities.iotEdge":                          yes,
		"moduleId = 'm'":                                unknown,
		"etag != deviceEtag":                            yes,
		"modelId = 'x'":                                 unknown,
		"lastActivityTime > '2026-03-01T12:00:00Z'":     yes,
		"lastActivityTime < '2026-03-01T12:00:00.001Z'": yes,
		"'2026-03-02' > lastActivityTime":               yes,
		"lastActivityTime > 'noon'":                     unknown,
		"statusUpdateTime < lastActivityTime":           yes,
		"tags.site = 'Oslo'":                            yes,
		`tags.site = "Oslo"`:                            yes,
		"tags['site'] = 'Oslo'":                         yes,
		"tags.[[site]] = 'Oslo'":                        yes,
		"tags.my-key = 'x'":                             yes,
		"tags.select = 1":                               yes,
		"tags.floor = -2":                               yes,
		"tags.floor < 0 and tags.floor >= -2.0e0":       yes,
		"tags.floor = '-2'":                             unknown,
		"tags.open":                                     yes,
		"tags.shut":                                     no,
		"NOT tags.shut":                                 yes,
		"tags.site":                                     unknown,
		"tags.shut < tags.open":                         yes,
		"tags.deep.er.est = 7":                          yes,
		"tags.deep.er = 7":                              unknown,
		"tags.site.er = 7":                              unknown,
		"tags.none = 7":                                 unknown,
		"NOT tags.none = 7":                             unknown,
		"tags.none != 7":                                unknown,
		"tags.none = null":                              unknown,
		"null = null":                                   yes,
		"tags.list = 1":                                 unknown,
		"is_defined(tags.none)":                         no,
		"IS_DEFINED(tags.list) AND NOT is_defined(tags.none)":                   yes,
		"properties.desired.interval > 10":                                      yes,
		"properties.desired.name = 'it\\'s'":                                    yes,
		"properties.desired.$version = 2":                                       yes,
		"properties.reported.$version = 1":                                      yes,
		"properties.reported.x = 1":                                             unknown,
		"properties.desired.$metadata.interval.$lastUpdatedVersion = 2":         yes,
		"properties.desired.$metadata.$lastUpdated >= '2023-11-14T22:13:20Z'":   yes,
		"properties.reported.$metadata.x.$lastUpdated > '2023-01-01'":           unknown,
		"tags.site IN ['Bergen', 'Oslo']":                                       yes,
		"tags.site in ['Bergen']":                                               no,
		"tags.site NIN ['Bergen']":                                              yes,
		"tags.none IN ['Bergen']":                                               unknown,
		"tags.none NIN ['Bergen']":                                              unknown,
		"tags.floor IN [1, -2, 'x', null]":                                      yes,
		"tags.none = 1 OR deviceId = 'dev1'":                                    yes,
		"tags.none = 1 OR deviceId = 'x'":                                       unknown,
		"tags.none = 1 AND deviceId = 'x'":                                      no,
		"tags.none = 1 AND deviceId = 'dev1'":                                   unknown,
		"deviceId = 'x' OR status = 'x' OR (tags.floor = -2)":                   yes,
		"deviceId = 'dev1' OR status = 'x' AND tags.floor = 0":                  yes, // AND binds more tightly
		"(deviceId = 'dev1' OR status = 'x') AND tags.floor = 0":                no,
		"NOT (deviceId = 'x' OR NOT tags.open = true) AND NOT NOT tags.floor<0": yes,
	} {
		q, err := parseQuery("select *\n from devices where " + condition)
		if err != nil {
			t.Errorf("%s: %v", condition, err)
			continue
		}
		if got := q.where.holds(row); got != want {
			t.Errorf("%s: %d, want %d", condition, got, want)
		}
	}
}

func TestAQueryPicksFields(t *testing.T) {
	row := queriedTwin(t)
	for fields, want := range map[string]string{
		"deviceId":                         `{"deviceId":"dev1"}`,
		"tags.site AS town, tags.deep.er":  `{"er":{"est":7},"town":"Oslo"}`,
		"tags.none, moduleId, tags.floor":  `{"floor":-2}`,
		"tags.list as l,tags.open":         `{"l":[1],"open":true}`,
		"capabilities, status":             `{"capabilities":{"iotEdge":true},"status":"enabled"}`,
		"properties.reported":              `{"reported":{"$metadata":{"$lastUpdated":"0001-01-01T00:00:00Z"},"$version":1}}`,
		"properties.desired.$version AS v": `{"v":2}`,
		"properties.desired.$metadata.limits AS m, properties.desired.$metadata.interval": `{"interval":{"$lastUpdated":"2023-11-14T22:13:20Z","$lastUpdatedVersion":2}}`,
		"lastActivityTime as at":              `{"at":"2026-03-01T12:00:00.0000005Z"}`,
		"properties.desired.[[interval]], $x": "",
	} {
		q, err := parseQuery("SELECT " + fields + " FROM devices")
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", fields, err)
			}
			continue
		}
		text, err := json.Marshal(q.project(row))
		if err != nil || string(text) != want {
			t.Errorf("%s: %s, want %s (%v)", fields, text, want, err)
		}
	}
	whole, err := row.whole()
	if err != nil {
		t.Fatal(err)
	}
	q, err := parseQuery("SELECT properties FROM devices")
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(q.project(row)["properties"])
	if want, _ := json.Marshal(whole.Properties); err != nil || string(got) != string(want) {
		t.Errorf("properties: %s, want %s", got, want)
	}
}

func TestAWrongQueryIsToldWhere(t *testing.T) {
	for text, want := range map[string]string{
		"":                                                        "character 1: SELECT is wanted, not the end",
		"UPDATE devices":                                          `character 1: SELECT is wanted, not "UPDATE"`,
		"SELECT":                                                  "character 7: a field is wanted, not the end",
		"SELECT * FROM":                                           "character 14: a field is wanted, not the end",
		"SELECT * devices":                                        `character 10: FROM is wanted, not "devices"`,
		"SELECT * FROM devices.jobs":                              "character 15: devices.jobs cannot be asked for, only devices and devices.modules",
		"SELECT * FROM devices GROUP BY x":                        `character 23: WHERE, AND, OR or the end is wanted, not "GROUP"`,
		"SELECT * FROM devices WHERE":                             "character 28: a field is wanted, not the end",
		"SELECT * FROM devices WHERE x = 1":                       "character 29: twins have no field x",
		"SELECT tags.a, foo FROM devices":                         "character 16: twins have no field foo",
		"SELECT COUNT() AS n FROM devices":                        "character 8: twins have no field COUNT",
		"SELECT tags.a AS 7 FROM devices":                         `character 18: a name is wanted, not "7"`,
		"SELECT tags. FROM devices":                               `character 19: FROM is wanted, not "devices"`,
		"SELECT * FROM devices WHERE tags.a = ":                   "character 38: a field is wanted, not the end",
		"SELECT * FROM devices WHERE tags.a = =":                  `character 38: a field is wanted, not "="`,
		"SELECT * FROM devices WHERE tags.a = 'x":                 "character 38: the string has no end",
		"SELECT * FROM devices WHERE tags.a = 1-2":                `character 38: a number is wanted, not "1-2"`,
		"SELECT * FROM devices WHERE tags.a = 1 tags.b = 2":       `character 40: WHERE, AND, OR or the end is wanted, not "tags"`,
		"SELECT * FROM devices WHERE (tags.a = 1":                 "character 40: ) is wanted, not the end",
		"SELECT * FROM devices WHERE tags.a IN 1":                 `character 39: [ is wanted, not "1"`,
		"SELECT * FROM devices WHERE tags.a IN [tags.b]":          "character 40: a number, a string, true, false or null is wanted",
		"SELECT * FROM devices WHERE tags.a IN [1,]":              `character 42: a number, a string, true, false or null is wanted, not "]"`,
		"SELECT * FROM devices WHERE tags.a IN [1":                "character 41: ] is wanted, not the end",
		"SELECT * FROM devices WHERE tags[1] = 1":                 `character 34: a name in quotes is wanted, not "1"`,
		"SELECT * FROM devices WHERE tags['a' = 1":                `character 38: ] is wanted, not "="`,
		"SELECT * FROM devices WHERE tags.[[a] = 1":               "a name in [[ ]] is wanted",
		"SELECT * FROM devices WHERE is_defined tags.a":           `character 40: ( is wanted, not "tags"`,
		"SELECT * FROM devices WHERE is_defined(7)":               `character 40: a field is wanted, not "7"`,
		"SELECT * FROM devices WHERE startswith(deviceId,'d')":    "character 29: twins have no field startswith",
		"SELECT * FROM devices WHERE properties.x = 1":            "twins have no field properties.x",
		"SELECT * FROM devices WHERE deviceId.x = 1":              "twins have no field deviceId.x",
		"SELECT * FROM devices WHERE ; DROP":                      `character 29: a field is wanted, not ";"`,
		"SELECT * FROM devices WHERE " + strings.Repeat("(", 100): "the query is nested deeper than 64 levels",
		"SELECT * FROM devices" + strings.Repeat(" ", 8<<10):      "the query has 8213 bytes, the limit is 8192",
	} {
		if _, err := parseQuery(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

// Whatever a query is, it is refused or answered; a condition and its negation never both hold.
func FuzzQuery(f *testing.F) {
	for _, text := range []string{
		"SELECT * FROM devices", "SELECT deviceId, tags.a AS b FROM devices.modules WHERE NOT (tags.site IN ['Oslo', -1.5e3, null] OR is_defined(properties.desired.[[x]]))",
		"select * from devices where tags['a'] <> 'x\\'' and lastActivityTime >= '2026-01-01' or capabilities.iotEdge",
		"SELECT properties FROM devices WHERE properties.desired.$metadata.interval.$lastUpdated < deviceId", "SELECT '", "SELECT * FROM devices WHERE ((",
	} {
		f.Add(text)
	}
	row := queriedTwin(f)
	f.Fuzz(func(t *testing.T, text string) {
		q, err := parseQuery(text)
		if err != nil {
			return
		}
		if _, err := json.Marshal(q.project(row)); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if q.where == nil {
			return
		}
		if is, isNot := q.where.holds(row), (negation{q.where}).holds(row); is == yes && isNot != no || is == no && isNot != yes || is == unknown && isNot != unknown {
			t.Fatalf("%q: %d, and not: %d", text, is, isNot)
		}
	})
}
