package control

import "time"

// ReloadRequest is the body of POST /reload: read the mapping again, and run what has changed.
type ReloadRequest struct {
	DryRun bool `json:"dry_run,omitempty"` // only say what would change
}

// ReloadReply is what became of it. Refused is empty if all of the mapping runs now, or would; else nothing has
// changed.
type ReloadReply struct {
	Mapping  string    `json:"mapping"` // path of mapping.yaml
	DryRun   bool      `json:"dry_run,omitempty"`
	Refused  []string  `json:"refused,omitempty"`  // why, one sentence each
	Findings []Finding `json:"findings,omitempty"` // of the mapping, those about keys included
	Changes  *Changes  `json:"changes,omitempty"`  // nil if the mapping has errors
	Took     string    `json:"took,omitempty"`     // "1.2s"
}

// Finding is a mistake or doubt about the mapping; line and column count from 1.
type Finding struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Code     string `json:"code"`
	Severity string `json:"severity"` // error or warning
	Message  string `json:"message"`
}

// Changes are the differences between two mappings.
type Changes struct {
	Identities Difference `json:"identities"`
	Links      Difference `json:"links"`     // changed: restarted
	Listeners  Difference `json:"listeners"` // changed: restarted
	Points     Difference `json:"points"`    // DEVICE/POINT
	Commands   Difference `json:"commands"`  // "method IDENTITY/NAME", "desired IDENTITY/PATH", "messages IDENTITY"
	// Other is what else changed, one sentence each.
	Other []string `json:"other,omitempty"`
}

// Difference is what of one kind was added, removed, changed and left alone.
type Difference struct {
	Added     []string `json:"added,omitempty"`
	Removed   []string `json:"removed,omitempty"`
	Changed   []Change `json:"changed,omitempty"`
	Untouched int      `json:"untouched"`
}

// Change is something that is there before and after, with what of it is another.
type Change struct {
	Name string   `json:"name"`
	Why  []string `json:"why"`
}

// Loaded says which mapping runs.
type Loaded struct {
	At      time.Time `json:"at"`                // when it was taken over, at the start or by a reload
	Reloads int       `json:"reloads"`           // since the start
	Refused string    `json:"refused,omitempty"` // why the last reload was not carried out; "" if it was
}
