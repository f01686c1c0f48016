package control

import "time"

// Status is the answer to GET /status: what the daemon is doing, in one page.
type Status struct {
	State      string           `json:"state"` // starting, running, degraded or stuck
	Reasons    []string         `json:"reasons,omitempty"`
	Mapping    string           `json:"mapping"` // path of mapping.yaml
	Loaded     Loaded           `json:"loaded"`  // which state of it runs
	Hub        string           `json:"hub"`     // name of the mapping's hub; "" if a service assigns all identities
	PID        int              `json:"pid"`
	Started    time.Time        `json:"started"`
	Queue      QueueStatus      `json:"queue"`
	Hubs       []HubStatus      `json:"hubs"` // that identities belong to, as far as they have asked by now
	Identities []IdentityStatus `json:"identities"`
	Links      []LinkStatus     `json:"links"` // of polled devices
	Devices    []DeviceStatus   `json:"devices"`
}

// QueueStatus is the store-and-forward queue as a whole.
type QueueStatus struct {
	Dir     string    `json:"dir"`
	ID      string    `json:"id"`    // begins every message id
	State   string    `json:"state"` // working, full, degraded or unavailable
	Since   time.Time `json:"since,omitzero"`
	Reason  string    `json:"reason,omitempty"` // one sentence with the remedy
	Aside   []string  `json:"aside,omitempty"`  // files that were set aside and are not read
	Clock   string    `json:"clock,omitempty"`  // what is known about the machine's clock
	Entries int64     `json:"entries"`          // waiting for the hub
	Bytes   int64     `json:"bytes"`            // of those entries
	Put     uint64    `json:"put"`              // accepted since the queue was made
	Acked   uint64    `json:"acked"`            // acknowledged by the hub since then
	Dropped uint64    `json:"dropped"`          // by a limit, by the operator or lost to damage since then
	Files   int       `json:"files"`            // of the queue
	Size    int64     `json:"file_bytes"`       // of those files
}

// HubStatus is how one hub does.
type HubStatus struct {
	Hub       string       `json:"hub"`
	Reachable bool         `json:"reachable"`
	Busy      bool         `json:"busy"`                // it asked for fewer connections a second than are allowed
	Connects  float64      `json:"connects_per_second"` // are opened now at most
	Quota     *QuotaStatus `json:"quota,omitempty"`     // if the mapping names the hubs' tier
}

// QuotaStatus is how far this gateway's messages use up a hub's daily quota, which begins anew at 00:00 UTC.
type QuotaStatus struct {
	Limit  int64     `json:"limit"`            // messages, as the hub counts them
	Used   int64     `json:"used"`             // today
	UsedUp time.Time `json:"used_up,omitzero"` // when, if messages go on as in the last hour; zero if not today
}

// IdentityStatus is one identity's connection and lane.
type IdentityStatus struct {
	Identity  string    `json:"identity"`
	Proof     string    `json:"proof"` // how it proves itself, where, and until when if somebody must see to that
	State     string    `json:"state"` // connecting, connected, offline, refused, busy or conflict
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`
	Waiting   int64     `json:"waiting"` // entries in its lane
	Oldest    time.Time `json:"oldest,omitzero"`
	Acked     uint64    `json:"acked"`    // since the start
	Repeated  uint64    `json:"repeated"` // sent again after a loss, since the start
	LastError string    `json:"last_error,omitempty"`
}

// LinkStatus is one connection or line with polled devices.
type LinkStatus struct {
	Link    string    `json:"link"`
	Address string    `json:"address"`
	Up      bool      `json:"up"`
	Since   time.Time `json:"since,omitzero"`
	Error   string    `json:"error,omitempty"` // why it is down
	// Load is the part of the last five minutes that it was busy, waiting for devices included, 1 being all of
	// it, and SkippedPerMinute how many polls were left out because it was, or was down; nil shortly after the
	// start.
	Load             *float64 `json:"load,omitempty"`
	SkippedPerMinute *float64 `json:"skipped_per_minute,omitempty"`
	// Since the start: requests, those without an answer, answers that came too late or twice or were
	// somebody else's, bytes that were none, and answers that broke the protocol.
	Requests   uint64 `json:"requests"`
	Timeouts   uint64 `json:"timeouts"`
	Stale      uint64 `json:"stale"`
	Noise      uint64 `json:"noise"`
	Violations uint64 `json:"violations"`
}

// DeviceStatus is one field device.
type DeviceStatus struct {
	Device   string    `json:"device"`
	Link     string    `json:"link"`
	State    string    `json:"state"` // "up", "down" or "unknown"
	LastGood time.Time `json:"last_good,omitzero"`
	Error    string    `json:"error,omitempty"`
	Skipped  uint64    `json:"skipped,omitempty"` // polls left out since the start: its link was busy, or down
	Refused  []string  `json:"refused,omitempty"` // points that it does not let be read
	Holes    []string  `json:"holes,omitempty"`   // places between points that it does not let be read over
}
