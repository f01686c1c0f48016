package mapping

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const oneDevice = "devices: { d: { local: true, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { time: { at: coil 0 } } } }\n"

func TestTheQueueIsLimitedAsWrittenAndElseAsBuiltIn(t *testing.T) {
	base := Buffer{MaxBytes: 2 << 30, MaxAge: 7 * 24 * time.Hour, LiveShare: 0.5}
	with := func(change func(*Buffer)) Buffer {
		b := base
		change(&b)
		return b
	}
	for text, want := range map[string]Buffer{
		"": base,
		"buffer: { max_size: 1024GiB, lane_max_size: 3GiB }\n": with(func(b *Buffer) { b.MaxBytes, b.LaneMaxBytes = 1<<40, 3<<30 }),
		"buffer: { max_age: 366d, when_full: refuse-new }\n":   with(func(b *Buffer) { b.MaxAge, b.RefuseNew = 366*24*time.Hour, true }),
		"buffer: { when_full: drop-oldest, batch: off }\n":     base,
		"buffer: { batch: {} }\n":                              with(func(b *Buffer) { b.Batch = &Batch{MaxBytes: 64 << 10, MaxWait: time.Second} }),
		"buffer: { batch: { max_size: 4KiB, max_wait: 0s } }\n": with(func(b *Buffer) {
			b.Batch = &Batch{MaxBytes: 4 << 10}
		}),
		"buffer: { drain_rate: 0.5 }\n":                   with(func(b *Buffer) { b.DrainRate = 0.5 }),
		"buffer: { drain_rate: 100, live_share: 0% }\n":   with(func(b *Buffer) { b.DrainRate, b.LiveShare = 100, 0 }),
		"buffer: { live_share: 100%, drain_rate: 100 }\n": with(func(b *Buffer) { b.DrainRate, b.LiveShare = 100, 1 }),
	} {
		if diff := cmp.Diff(want, good(t, text+oneDevice).Buffer); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", text, diff)
		}
	}
}

func TestWhatTheQueueCannotDoIsRefusedAtItsValue(t *testing.T) {
	for text, want := range map[string]string{
		"max_size: 1023KiB":                          "3:21 E009",
		"max_size: 1025GiB":                          "3:21 E009",
		"max_size: 2GB":                              "3:21 E009",
		"lane_max_size: 3GiB":                        "3:26 E190",
		"max_age: 367d":                              "3:20 E009",
		"batch: on":                                  "3:18 E009",
		"batch: [64KiB]":                             "3:18 E007",
		"batch: { max_size: 241KiB }":                "3:30 E009",
		"drain_rate: 0":                              "3:23 E009",
		"drain_rate: fast":                           "3:23 E009",
		"drain_rate: 1e6":                            "3:23 E009",
		"drain_rate: 1, live_share: 101%":            "3:38 E009",
		"drain_rate: 1, live_share: 01%":             "3:38 E010",
		"drain_rate: 1, live_share: 0.5":             "3:38 E009",
		"live_share: 5%":                             "3:11 E191",
		"drain_rat: 1, live_share: 5%":               "3:11 E003",
		"when_full: [drop-oldest]":                   "3:22 E007",
		"max_size: 1MiB, lane_max_size: 1025KiB":     "3:42 E190",
		"lane_max_size: 2GiB, max_size: 2GiB, x: 1":  "3:48 E003",
		"lane_max_size: 1GiB, max_size: 1GiB, off: ": "3:48 E003",
	} {
		check(t, head+"buffer: { "+text+" }\n"+oneDevice, want)
	}
}

// A point that nobody reports may be called as it likes; so may one while batch is off.
func TestTheFieldTimeIsFreeWhileNothingIsPacked(t *testing.T) {
	reported := "devices: { d: { identity: { device: d, sas_key: env:D }, modbus: { tcp: h:502, unit: 1, addressing: zero }, points: { time: { at: coil 0 } } } }\n"
	good(t, reported)
	good(t, "buffer: { batch: off }\n"+reported)
	good(t, "buffer: { batch: {} }\n"+oneDevice)
	check(t, head+"buffer: { batch: {} }\n"+reported, "4:119 E192")
}
