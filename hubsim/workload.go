package hubsim

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listenWorkload takes the socket of the workload API. One that a hub left behind when it was killed is replaced.
func listenWorkload(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if conn, dialErr := net.Dial("unix", path); dialErr == nil {
			_ = conn.Close()
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	// Whoever may connect can be any module of the hub.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// workloadHandler is the workload API of IoT Edge, as far as a module needs it to prove who it is (EDGE-3 to
// EDGE-6).
func (h *Hub) workloadHandler() http.Handler {
	mux := http.NewServeMux()
	serve := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			var value any
			err := checkVersion(r.URL.Query().Get("api-version"))
			if err != nil {
				err = apiError(errVersion)
			} else if value, err = f(r); err == nil {
				err = writeJSON(w, value)
			}
			if err != nil {
				h.writeWorkloadError(w, r, err)
			}
		})
	}
	serve("POST /modules/{module}/genid/{generation}/sign", h.signForModule)
	serve("GET /trust-bundle", func(*http.Request) (any, error) {
		return struct {
			Certificate string `json:"certificate"`
		}{string(h.ca.pem)}, nil
	})
	serve("/", func(r *http.Request) (any, error) {
		return nil, &Error{Status: http.StatusNotFound, Name: "NotFound", Message: "the simulator's workload API has sign and trust-bundle only"}
	})
	return unblocked(mux)
}

// writeWorkloadError writes an error in the form of EDGE-6.
func (h *Hub) writeWorkloadError(w http.ResponseWriter, r *http.Request, err error) {
	bad := toldOf(err)
	h.log.Warn().Int("status", bad.Status).Str("clause", "EDGE-6").Msgf("workload API: %s %s: %s", r.Method, r.URL.Path, bad.Message)
	body, _ := json.Marshal(map[string]string{"message": bad.Message}) // a map of texts is always JSON
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(bad.Status)
	_, _ = w.Write(body)
}

// signForModule signs what a module asks for with its key (EDGE-3).
func (h *Hub) signForModule(r *http.Request) (any, error) {
	var body struct{ KeyID, Algo, Data string }
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(body.Data)
	switch {
	case err != nil || body.Data == "":
		return nil, apiError(errArgument).because("data is not base64 of what is to be signed")
	case !strings.EqualFold(body.Algo, "HMACSHA256"):
		return nil, apiError(errArgument).because(fmt.Sprintf("algo is %q, not HMACSHA256", body.Algo))
	}
	reg, ok := h.registry.module(r.PathValue("module"), r.PathValue("generation"))
	if !ok {
		return nil, apiError(errNoModule).because("no module " + r.PathValue("module") + " of that generation")
	}
	key := reg.PrimaryKey
	switch body.KeyID {
	case "primary":
	case "secondary":
		key = reg.SecondaryKey
	default:
		return nil, apiError(errArgument).because(fmt.Sprintf("keyId is %q, not primary or secondary", body.KeyID))
	}
	if reg.kind() != byKey {
		return nil, apiError(errArgument).because("the module proves itself with a certificate")
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, raw)
	mac.Write(data)
	return struct {
		Digest []byte `json:"digest"`
	}{mac.Sum(nil)}, nil
}

// module finds a module by its id and generation: a workload socket belongs to one machine, which the
// simulator's modules of several devices share.
func (r *registry) module(id, generation string) (registration, bool) {
	number, err := strconv.ParseUint(generation, 10, 64)
	if err != nil {
		return registration{}, false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, one := range r.identities {
		if one.ModuleID == id && id != "" && one.GenerationID == number {
			return one.registration, true
		}
	}
	return registration{}, false
}

// Environment is what the IoT Edge runtime sets for a module (EDGE-1), as NAME=value: a program that runs
// with it finds this hub in place of edgeHub. The hub must have a WorkloadSocket. The error is an *Error with
// 404001 or 404010.
func (h *Hub) Environment(device, module string) ([]string, error) {
	if h.workload == nil {
		return nil, errors.New("hubsim: there is no workload socket")
	}
	id, err := h.lookUp(device, module)
	if err != nil {
		return nil, err
	}
	if module == "" {
		return nil, apiError(errNoModule).because(device + " is a device; IoT Edge runs modules")
	}
	path, err := filepath.Abs(h.cfg.WorkloadSocket)
	if err != nil {
		return nil, err
	}
	socket := url.URL{Scheme: "unix", Path: path}
	return []string{
		"IOTEDGE_WORKLOADURI=" + socket.String(),
		"IOTEDGE_IOTHUBHOSTNAME=" + hostOnly(h.cfg.HostName),
		"IOTEDGE_GATEWAYHOSTNAME=" + h.reach(),
		"IOTEDGE_DEVICEID=" + device,
		"IOTEDGE_MODULEID=" + module,
		"IOTEDGE_MODULEGENERATIONID=" + strconv.FormatUint(id.GenerationID, 10),
		"IOTEDGE_AUTHSCHEME=sasToken",
		"IOTEDGE_APIVERSION=2019-01-30",
	}, nil
}

// reach is where devices of this machine find the hub, with the port unless it is 8883.
func (h *Hub) reach() string {
	host, port, err := net.SplitHostPort(h.MQTTAddr())
	if ip := net.ParseIP(host); err != nil || ip.IsLoopback() || ip.IsUnspecified() {
		host = ""
	}
	host = cmp.Or(host, "localhost")
	if port == "8883" {
		return host
	}
	return net.JoinHostPort(host, port)
}
