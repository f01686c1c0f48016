package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"

	gateway "iothub-gateway"
	"iothub-gateway/buffer"
	"iothub-gateway/internal/control"
)

// queueAccess is what can be done with a queue, by whoever has it: the daemon itself, a command that
// asks the daemon, or a command that works on the files.
type queueAccess struct {
	// reclaim takes in what waits in a file that was set aside; nil while a gateway has the queue.
	reclaim func(ctx context.Context, path string) (int64, error)
	running bool // a gateway has it
	page    func(context.Context) (control.QueuePage, error)
	entries func(context.Context, entryQuery, func(control.QueueEntry) error) error
	// drop leaves those that an earlier run may have sent, unless all says otherwise.
	drop   func(ctx context.Context, identity string, all bool) (dropped int64, err error)
	dead   func(context.Context) ([]control.DeadLetter, error)
	replay func(ctx context.Context, id string) error
	forget func(ctx context.Context, id string) error
	close  func() error
}

// entryQuery asks for entries of one lane, in its order.
type entryQuery struct {
	identity string
	after    uint64 // sequence
	limit    int64  // 0: all
}

// peekAtOnce is how many entries are in memory at a time while a lane is read.
const peekAtOnce = 256

// accessTo is the access of who has opened the queue of dir.
func accessTo(q *buffer.Queue, dir string) queueAccess {
	return queueAccess{
		page: func(context.Context) (control.QueuePage, error) { return queuePage(q, dir), nil },
		entries: func(ctx context.Context, query entryQuery, each func(control.QueueEntry) error) error {
			id := gateway.IdentityID(query.identity)
			if _, there := q.Stats().Lanes[id]; !there { // asking for it would make it
				return fmt.Errorf("the queue has no lane of %q", id)
			}
			return peekAll(ctx, q.Lane(id), query, each)
		},
		drop: func(ctx context.Context, identity string, all bool) (int64, error) {
			return q.Drop(ctx, gateway.IdentityID(identity), all)
		},
		dead: func(context.Context) ([]control.DeadLetter, error) {
			letters, err := q.DeadLetters()
			list := make([]control.DeadLetter, 0, len(letters))
			for _, l := range letters {
				list = append(list, control.DeadLetter{
					ID: l.ID, Identity: string(l.Telemetry.Identity), Reason: l.Reason, Time: l.Time, Created: l.Telemetry.Created,
					Properties: propertyMap(l.Telemetry.Properties), Body: control.JSONBody(l.Telemetry.Body),
				})
			}
			return list, err
		},
		reclaim: q.Reclaim,
		replay:  q.Replay,
		forget:  q.Forget,
		close:   func() error { return nil },
	}
}

// queueStatus is the queue as a whole.
func queueStatus(q *buffer.Queue, stats buffer.Stats, dir string) control.QueueStatus {
	health := q.Health()
	return control.QueueStatus{
		Dir: dir, ID: q.ID(), State: health.State, Since: health.Since, Reason: health.Reason, Aside: health.Aside,
		Entries: stats.Entries, Bytes: stats.Bytes, Put: stats.Put, Acked: stats.Acked, Dropped: stats.Dropped,
		Files: stats.Generations, Size: stats.FileBytes,
	}
}

// queuePage is the queue with its lanes, without what only the service knows of them.
func queuePage(q *buffer.Queue, dir string) control.QueuePage {
	stats := q.Stats()
	page := control.QueuePage{QueueStatus: queueStatus(q, stats, dir), Lanes: []control.LaneStatus{}}
	for _, id := range slices.Sorted(maps.Keys(stats.Lanes)) {
		l := stats.Lanes[id]
		page.Lanes = append(page.Lanes, control.LaneStatus{
			Identity: string(id), Entries: l.Entries, Bytes: l.Bytes, Oldest: l.Oldest, Dropped: l.Dropped,
		})
	}
	return page
}

// peekAll reads what a query asks for.
func peekAll(ctx context.Context, lane *buffer.Lane, query entryQuery, each func(control.QueueEntry) error) error {
	for left, after := query.limit, query.after; query.limit == 0 || left > 0; {
		most := int64(peekAtOnce)
		if query.limit > 0 {
			most = min(most, left)
		}
		entries, err := lane.Peek(ctx, after, int(most))
		if err != nil || len(entries) == 0 {
			return err
		}
		for i := range entries {
			if err := each(queueEntry(&entries[i])); err != nil {
				return err
			}
		}
		after = entries[len(entries)-1].Seq
		left -= int64(len(entries))
	}
	return nil
}

func queueEntry(e *buffer.Entry) control.QueueEntry {
	return control.QueueEntry{
		Identity: string(e.Telemetry.Identity), ID: e.ID(), First: e.First, Last: e.Seq, Created: e.Telemetry.Created, Gap: e.Gap != nil,
		Properties: propertyMap(e.Telemetry.Properties), Body: control.JSONBody(e.Telemetry.Body),
	}
}

func propertyMap(properties []gateway.Property) map[string]string {
	if len(properties) == 0 {
		return nil
	}
	m := make(map[string]string, len(properties))
	for _, p := range properties {
		m[p.Name] = p.Value
	}
	return m
}

// The resources of the queue on the control socket.
const (
	resourceQueue   = "/queue"
	resourceEntries = "/queue/entries"
	resourceDrop    = "/queue/drop"
	resourceDropAll = "/queue/drop/all"
	resourceDead    = "/queue/dead"
	resourceReplay  = "/queue/dead/replay"
	resourceForget  = "/queue/dead/drop"
)

// serveQueue answers for the queue on the control socket.
func serveQueue(mux *http.ServeMux, q queueAccess) {
	mux.HandleFunc("GET "+resourceQueue, func(w http.ResponseWriter, r *http.Request) {
		page, err := q.page(r.Context())
		answer(w, page, err)
	})
	mux.HandleFunc("GET "+resourceEntries, func(w http.ResponseWriter, r *http.Request) {
		query, err := parseQuery(r.URL.Query())
		if err != nil {
			control.Refuse(w, err)
			return
		}
		control.WriteStream(w, func(send func(any) error) error {
			return q.entries(r.Context(), query, func(e control.QueueEntry) error { return send(e) })
		})
	})
	mux.HandleFunc("POST "+resourceDrop, withText(func(ctx context.Context, identity string) (any, error) { return q.drop(ctx, identity, false) }))
	mux.HandleFunc("POST "+resourceDropAll, withText(func(ctx context.Context, identity string) (any, error) { return q.drop(ctx, identity, true) }))
	mux.HandleFunc("GET "+resourceDead, func(w http.ResponseWriter, r *http.Request) {
		letters, err := q.dead(r.Context())
		answer(w, letters, err)
	})
	mux.HandleFunc("POST "+resourceReplay, withText(func(ctx context.Context, id string) (any, error) { return nil, q.replay(ctx, id) }))
	mux.HandleFunc("POST "+resourceForget, withText(func(ctx context.Context, id string) (any, error) { return nil, q.forget(ctx, id) }))
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		control.Refuse(w, err)
		return
	}
	control.WriteJSON(w, v)
}

// withText answers requests whose body is one JSON string.
func withText(do func(ctx context.Context, text string) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var text string
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&text); err != nil {
			control.Refuse(w, fmt.Errorf("the request is no JSON string: %w", err))
			return
		}
		v, err := do(r.Context(), text)
		answer(w, v, err)
	}
}

func (q entryQuery) values() url.Values {
	return url.Values{
		"identity": {q.identity}, "after": {strconv.FormatUint(q.after, 10)}, "limit": {strconv.FormatInt(q.limit, 10)},
	}
}

func parseQuery(v url.Values) (q entryQuery, err error) {
	q.identity = v.Get("identity")
	if q.after, err = strconv.ParseUint(v.Get("after"), 10, 64); err != nil {
		return q, fmt.Errorf("after: %w", err)
	}
	if q.limit, err = strconv.ParseInt(v.Get("limit"), 10, 64); err != nil {
		return q, fmt.Errorf("limit: %w", err)
	}
	return q, nil
}

// accessOver is the access of who asks the running gateway.
func accessOver(client *control.Client) queueAccess {
	return queueAccess{
		running: true,
		page: func(ctx context.Context) (page control.QueuePage, err error) {
			err = client.Get(ctx, resourceQueue, &page)
			return page, err
		},
		entries: func(ctx context.Context, query entryQuery, each func(control.QueueEntry) error) error {
			return client.Stream(ctx, resourceEntries+"?"+query.values().Encode(), func(raw json.RawMessage) error {
				var e control.QueueEntry
				if err := json.Unmarshal(raw, &e); err != nil {
					return err
				}
				return each(e)
			})
		},
		drop: func(ctx context.Context, identity string, all bool) (n int64, err error) {
			resource := resourceDrop
			if all {
				resource = resourceDropAll
			}
			err = client.Post(ctx, resource, identity, &n)
			return n, err
		},
		dead: func(ctx context.Context) (letters []control.DeadLetter, err error) {
			err = client.Get(ctx, resourceDead, &letters)
			return letters, err
		},
		replay: func(ctx context.Context, id string) error { return client.Post(ctx, resourceReplay, id, nil) },
		forget: func(ctx context.Context, id string) error { return client.Post(ctx, resourceForget, id, nil) },
		close:  func() error { return nil },
	}
}

// askDaemon is the running gateway's queue; false if none runs.
func askDaemon(ctx context.Context, o *queueOptions) (queueAccess, bool, error) {
	q := accessOver(control.NewClient(filepath.Join(o.runtime, control.SocketName)))
	_, err := q.page(ctx)
	if errors.Is(err, control.ErrNotRunning) {
		return queueAccess{}, false, nil
	}
	return q, true, err
}
