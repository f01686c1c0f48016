package hubsim

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	feedbackBatch = 64               // records of a full message (C2D-29)
	feedbackDelay = 15 * time.Second // after which one is sent that is not full
	maxFeedback   = 1000             // messages that are kept
	feedbackKind  = "feedback"       // of the state, by sequence
)

// feedbackStatus is what became of a cloud-to-device message (C2D-29).
type feedbackStatus string

const (
	statusSuccess  feedbackStatus = "Success"
	statusExpired  feedbackStatus = "Expired"
	statusExceeded feedbackStatus = "DeliveryCountExceeded"
	statusRejected feedbackStatus = "Rejected"
	statusPurged   feedbackStatus = "Purged"
)

// wanted tells whether the sender who asked for ack wants to hear of it.
func (s feedbackStatus) wanted(ack string) bool {
	return ack == "full" || ack == "positive" && s == statusSuccess || ack == "negative" && s != statusSuccess
}

// clause is the rule of the hub contract that a message was dropped by.
func (s feedbackStatus) clause() string {
	switch s {
	case statusExpired:
		return "C2D-27"
	case statusExceeded:
		return "C2D-26"
	case statusPurged:
		return "C2D-30"
	}
	return "C2D-9, C2D-12"
}

// FeedbackRecord says what became of one cloud-to-device message (C2D-29).
type FeedbackRecord struct {
	OriginalMessageID string `json:"originalMessageId"`
	// EnqueuedTime is when it happened.
	EnqueuedTime time.Time `json:"enqueuedTimeUtc"`
	// Status is Success, Expired, DeliveryCountExceeded, Rejected or Purged.
	Status       string `json:"statusCode"`
	Description  string `json:"description"`
	DeviceID     string `json:"deviceId"`
	GenerationID uint64 `json:"deviceGenerationId,string"`
}

// Feedback is a message of up to 64 records, sent when it is full or 15 s after its first record (C2D-29).
type Feedback struct {
	// Sequence counts from 1.
	Sequence uint64 `json:"sequence"`
	// ContentType is application/vnd.microsoft.iothub.feedback.json.
	ContentType string           `json:"contentType"`
	Records     []FeedbackRecord `json:"records"`
}

// sent tells whether the message is complete: no record is added to it from then on.
func (f *Feedback) sent(now time.Time) bool {
	return len(f.Records) >= feedbackBatch || !now.Before(f.Records[0].EnqueuedTime.Add(feedbackDelay))
}

// feedback holds the newest messages, the last of which may still grow.
type feedback struct {
	state *state

	mu  sync.Mutex // guards all
	all []*Feedback
}

// add takes a record in, and notes it together with other changes.
func (f *feedback) add(r FeedbackRecord, changes []change) *saved {
	f.mu.Lock()
	defer f.mu.Unlock()
	var last *Feedback
	if len(f.all) > 0 {
		last = f.all[len(f.all)-1]
	}
	if last == nil || last.sent(r.EnqueuedTime) {
		next := &Feedback{Sequence: 1, ContentType: "application/vnd.microsoft.iothub.feedback.json"}
		if last != nil {
			next.Sequence = last.Sequence + 1
		}
		f.all = append(f.all, next)
		last = next
		if len(f.all) > maxFeedback {
			changes = append(changes, change{feedbackKind, feedbackKey(f.all[0].Sequence), nil})
			f.all = slices.Delete(f.all, 0, 1)
		}
	}
	last.Records = append(last.Records, r)
	return f.state.write(append(changes, change{feedbackKind, feedbackKey(last.Sequence), last})...)
}

func feedbackKey(sequence uint64) string { return fmt.Sprintf("%020d", sequence) }

// Feedback returns the feedback messages with Sequence > after that were sent, oldest first. The newest
// 1000 are kept.
func (h *Hub) Feedback(after uint64) []Feedback {
	h.feedback.mu.Lock()
	defer h.feedback.mu.Unlock()
	var all []Feedback
	for _, f := range h.feedback.all {
		if f.Sequence > after && f.sent(time.Now()) {
			all = append(all, *f)
		}
	}
	return all
}
