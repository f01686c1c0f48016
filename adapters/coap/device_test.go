package coap

import (
	"net/netip"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestADeviceIsFoundByWhereItSendsFromAndWhereTo(t *testing.T) {
	r := newRoster(Config{Plain: true, Devices: []Device{
		{Name: "host", From: prefix("10.7.4.17/32"), Path: "/v1/t"},
		{Name: "host, other path", From: prefix("10.7.4.17/32"), Path: "/v1/x"},
		{Name: "net", From: prefix("10.7.4.0/24"), Path: "/v1/t"},
		{Name: "wide", From: prefix("10.0.0.0/8"), Path: "/v1/t"},
		{Name: "wide, root", From: prefix("10.0.0.0/8"), Path: "/"},
		{Name: "six", From: prefix("fe80::/10"), Path: "/v1/t"},
	}})
	for _, c := range []struct {
		from, path, want string
	}{
		{"10.7.4.17", "/v1/t", "host"},
		{"10.7.4.17", "/v1/x", "host, other path"},
		{"10.7.4.18", "/v1/t", "net"},
		{"10.7.5.1", "/v1/t", "wide"},
		{"10.7.4.17", "/", "wide, root"},
		{"10.7.4.18", "/v1/x", "4.03"},
		{"10.7.4.18", "/v2", "4.04"},
		{"10.7.4.18", "/v1/t/", "4.04"},
		{"192.168.1.1", "/v1/t", "4.01"},
		{"fe80::1%eth0", "/v1/t", "six"},
	} {
		from := udpPeer{arrival: arrival{from: netip.AddrPortFrom(netip.MustParseAddr(c.from), 5683)}}
		d, known, code := r.find(from, segmentsOf(c.path))
		got := dotted(code)
		if d != nil {
			got = d.Name
		}
		equal(t, c.from+" "+c.path, got, c.want)
		equal(t, c.from+" "+c.path+" is known", known != nil, c.want != "4.01")
	}
}

func TestAnIdentityIsFoundByItsNameAlone(t *testing.T) {
	r := newRoster(Config{Devices: []Device{
		{Name: "a", PSK: "env-17", Path: "/a"}, {Name: "b", PSK: "env-17", Path: "/b"}, {Name: "c", PSK: "env-18", Path: "/c"},
	}})
	for _, c := range []struct{ identity, path, want string }{
		{"env-17", "/a", "a"}, {"env-17", "/b", "b"}, {"env-17", "/c", "4.03"}, {"env-17", "/d", "4.04"},
		{"ENV-17", "/a", "4.03"}, {"", "/a", "4.03"}, {"env-18", "/c", "c"},
	} {
		d, _, code := r.find(&session{identity: c.identity}, segmentsOf(c.path))
		got := dotted(code)
		if d != nil {
			got = d.Name
		}
		equal(t, c.identity+" "+c.path, got, c.want)
	}
}

func TestAPathIsComparedSegmentBySegment(t *testing.T) {
	r := newRoster(Config{Plain: true, Devices: []Device{{Name: "d", From: prefix("10.0.0.0/8"), Path: "/v1/t"}}})
	from := udpPeer{arrival: arrival{from: netip.MustParseAddrPort("10.0.0.1:1")}}
	for _, path := range [][]string{{"v1/t"}, {"", "v1", "t"}, {"v1", "t", ""}, {"v1\x00t"}, {"V1", "t"}, {"..", "v1", "t"}, nil} {
		if d, _, _ := r.find(from, path); d != nil {
			t.Errorf("%q is taken", path)
		}
	}
}

func TestOnlyEqualRefusalsWithinAMinuteAreMany(t *testing.T) {
	var f faults
	now := time.Now()
	for i := range manyFaults {
		if f.add(codes.BadRequest, now.Add(time.Duration(i)*time.Second)) {
			t.Errorf("the %d. refusal is one too many", i+1)
		}
	}
	if !f.add(codes.BadRequest, now.Add(6*time.Second)) {
		t.Error("the sixth is not too many")
	}
	if f.add(codes.NotFound, now.Add(7*time.Second)) {
		t.Error("another refusal is one too many")
	}
	for i := range 2 * manyFaults {
		if f.add(codes.BadRequest, now.Add(time.Duration(i)*20*time.Second)) && i < manyFaults {
			t.Errorf("three a minute are too many after %d", i)
		}
	}
}

func TestADeviceIsOverdueWhenItsSilenceIsTooLong(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		what string
		d    device
		want bool
	}{
		{"in time", device{heard: now.Add(-time.Minute)}, false},
		{"late", device{heard: now.Add(-time.Hour)}, true},
		{"late, and that is known", device{heard: now.Add(-time.Hour), silent: true}, false},
		{"late, and that is on its way", device{heard: now.Add(-time.Hour), pending: true}, false},
		{"late, and it could not be stored just now", device{heard: now.Add(-time.Hour), quiet: now.Add(time.Second)}, false},
	} {
		c.d.ExpectEvery = 5 * time.Minute
		equal(t, c.what, c.d.overdue(now), c.want)
		c.d.ExpectEvery = 0
		equal(t, c.what+", if nothing is expected", c.d.overdue(now), false)
	}
}

func TestWaitingTimesGrowAndAreBounded(t *testing.T) {
	for failing, want := range map[time.Duration]uint32{0: 5, 8 * time.Second: 5, time.Minute: 30, time.Hour: maxWaitIfStuck} {
		equal(t, failing.String(), patience(failing), want)
		for range 100 {
			if s := spread(want); s < want || s > want+want/2 || s > 300 {
				t.Fatalf("%d s are spread to %d s", want, s)
			}
		}
	}
}
