package hubsim

import (
	"net/url"
	"strings"
	"time"
)

// userName is a CONNECT's user name taken apart (CON-19 to CON-22).
type userName struct {
	host, device, module string
	// parameters are percent-decoded; of a repeated one the first counts.
	parameters map[string]string
	// short tells that the form is one of the two old ones without "?" (CON-21).
	short bool
}

// parseUserName reads {host}/{device}[/{module}] followed by /?api-version=..., by /api-version=... or
// by nothing. Ids are taken as they are: the hub does not decode them here (CON-24).
func parseUserName(text string) (userName, error) {
	u := userName{short: true}
	path, query, found := strings.Cut(text, "/?")
	if found {
		u.short = false
	} else {
		path, query, found = strings.Cut(text, "/api-version=")
		if found {
			query = "api-version=" + query
		}
	}
	u.parameters = parseParameters(query)
	parts := strings.Split(path, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return u, wrong("CON-19", "it is not {host}/{device}[/{module}]/?api-version=...")
	}
	for _, part := range parts {
		if part == "" {
			return u, wrong("CON-19", "the host or an id is empty")
		}
	}
	u.host, u.device = parts[0], parts[1]
	if len(parts) == 3 {
		u.module = parts[2]
	}
	if v, ok := u.parameters["api-version"]; ok {
		return u, checkVersion(v)
	}
	return u, nil
}

func parseParameters(query string) map[string]string {
	all := map[string]string{}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if decoded, err := url.PathUnescape(value); err == nil {
			value = decoded
		}
		if _, again := all[name]; !again && name != "" {
			all[name] = value
		}
	}
	return all
}

// checkVersion accepts a date since 2016-11-14, with or without "-preview" (SVC-1).
func checkVersion(version string) error {
	date, err := time.Parse(time.DateOnly, strings.TrimSuffix(version, "-preview"))
	if err != nil || date.Before(time.Date(2016, time.November, 14, 0, 0, 0, 0, time.UTC)) {
		return wrong("SVC-1", "api-version %q is not a date since 2016-11-14", version)
	}
	return nil
}
