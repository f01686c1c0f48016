package hubsim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"sort"
	"strconv"
)

const (
	queryPage    = 100  // items of an answer, if the client does not say
	maxQueryPage = 1000 // at most
)

// continuation is where the next page of a query begins.
type continuation struct {
	Query uint32 `json:"q"` // the checksum of its text
	After string `json:"a"` // the last identity that the client has, by name
}

// postQuery answers a page of a query (SVC-20).
func (h *Hub) postQuery(r *http.Request) (any, error) {
	if h.cfg.Limits.Basic {
		return nil, apiError(errTier)
	}
	if err := h.queueRequest(r, queryOperation, 0); err != nil {
		return nil, err
	}
	var body struct {
		Query string `json:"query"`
	}
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	q, err := parseQuery(body.Query)
	if err != nil {
		return nil, apiError(errArgument).because(err.Error())
	}
	limit, err := pageSize(r.Header.Get("x-ms-max-item-count"))
	if err != nil {
		return nil, err
	}
	from := continuation{Query: crc32.ChecksumIEEE([]byte(body.Query))}
	if text := r.Header.Get("x-ms-continuation"); text != "" {
		if from.After, err = from.parse(text); err != nil {
			return nil, err
		}
	}
	return h.answerQuery(q, from, limit)
}

// pageSize is how many items a client wants.
func pageSize(text string) (int, error) {
	if text == "" {
		return queryPage, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, apiError(errArgument).because("x-ms-max-item-count is not a positive number: " + text)
	}
	return min(n, maxQueryPage), nil
}

// parse reads a token that answerQuery made for the same query.
func (c continuation) parse(text string) (after string, err error) {
	var got continuation
	plain, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(plain, &got)
	}
	if err != nil || got.Query != c.Query {
		return "", apiError(errArgument).because("x-ms-continuation is not of an answer to this query")
	}
	return got.After, nil
}

// answerQuery collects a page. Paging goes by name: what is registered or deleted meanwhile neither repeats
// nor hides others.
func (h *Hub) answerQuery(q query, from continuation, limit int) (any, error) {
	all := h.registry.list()
	next := sort.Search(len(all), func(i int) bool { return all[i].name() > from.After })
	items := []any{}
	answer := reply{header: map[string]string{"x-ms-item-type": "Twin"}}
	if q.fields != nil {
		answer.header["x-ms-item-type"] = "Raw"
	}
	for _, id := range all[next:] {
		if q.modules != (id.ModuleID != "") {
			continue
		}
		row := h.row(id)
		if q.where != nil && q.where.holds(row) != yes {
			continue
		}
		if len(items) == limit { // there is one more
			text, err := json.Marshal(from)
			if err != nil {
				return nil, err
			}
			answer.header["x-ms-continuation"] = base64.StdEncoding.EncodeToString(text)
			break
		}
		item, err := q.item(row)
		if err != nil {
			return nil, fmt.Errorf("hubsim: the twin of %s: %w", id.name(), err)
		}
		items = append(items, item)
		from.After = id.name()
	}
	answer.body = items
	return answer, nil
}

// item is a row as the answer has it.
func (q query) item(row *queryRow) (any, error) {
	if q.fields != nil {
		return q.project(row), nil
	}
	return row.whole()
}
