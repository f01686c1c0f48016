package hubsim

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// The web face: a page of devices and messages, and a page for each identity, rendered here; a small script
// keeps them up to date. It works with the rights of the policy iothubowner, so it opens only to who has its
// key, and takes changes only from its own pages.

//go:embed web
var webFiles embed.FS

// webPages are the templates. They escape whatever devices and people send.
func webPages() (*template.Template, error) {
	return template.New("").Funcs(template.FuncMap{
		"clock":  func(t time.Time) string { return t.Local().Format("15:04:05.000") },
		"moment": func(t time.Time) string { return t.Local().Format(time.DateTime) },
		"page":   func(id string) string { return "/ui/device?id=" + url.QueryEscape(id) },
	}).ParseFS(webFiles, "web/*.html")
}

// PageURL is the address of the web face for a person's browser. It holds a key, like a password, which stays
// the same for as long as the state does.
func (h *Hub) PageURL() string {
	host, port, _ := net.SplitHostPort(h.HTTPSAddr())
	if ip := net.ParseIP(host); ip == nil || ip.IsLoopback() || ip.IsUnspecified() {
		host = "localhost"
	}
	return "https://" + net.JoinHostPort(host, port) + "/ui/?key=" + h.pageKey()
}

// pageKey opens the web face. It follows from the key of iothubowner, so that it lives as long and cannot be
// turned back into it.
func (h *Hub) pageKey() string {
	owner := h.registry.policies[0]
	for _, p := range h.registry.policies {
		if p.Name == "iothubowner" {
			owner = p
		}
	}
	mac := hmac.New(sha256.New, []byte(owner.PrimaryKey))
	mac.Write([]byte("web face"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// routeWeb serves the web face.
func (h *Hub) routeWeb(mux *http.ServeMux) {
	web := &web{hub: h, pages: sync.OnceValues(webPages)}
	own := http.NewCrossOriginProtection()
	route := func(pattern string, f func(http.ResponseWriter, *http.Request)) {
		mux.Handle(pattern, own.Handler(web.guarded(f)))
	}
	route("GET /ui/{$}", web.devices)
	route("GET /ui/device", web.device)
	route("GET /ui/live", web.live)
	route("POST /ui/twin", web.saveTwin)
	route("POST /ui/call", web.callMethod)
	route("POST /ui/send", web.sendMessage)
	for _, name := range []string{"style.css", "live.js"} {
		mux.Handle("GET /ui/"+name, protected(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, webFiles, "web/"+name)
		})))
	}
}

// web is the web face of a hub.
type web struct {
	hub   *Hub
	pages func() (*template.Template, error)
}

// protected sets the headers that keep a browser from doing anything that the page does not mean.
func protected(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// guarded lets in who has the key: in the address once, then in a cookie, so that it stands in no history.
func (w *web) guarded(f func(http.ResponseWriter, *http.Request)) http.Handler {
	return protected(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		if w.isKey(query.Get("key")) && r.Method == http.MethodGet {
			http.SetCookie(out, &http.Cookie{
				Name: w.cookieName(), Value: w.hub.pageKey(), Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
			})
			query.Del("key")
			http.Redirect(out, r, (&url.URL{Path: r.URL.Path, RawQuery: query.Encode()}).String(), http.StatusSeeOther)
			return
		}
		if cookie, err := r.Cookie(w.cookieName()); err != nil || !w.isKey(cookie.Value) {
			w.render(out, http.StatusForbidden, "closed", nil)
			return
		}
		r.Body = http.MaxBytesReader(out, r.Body, maxRequest)
		f(out, r)
	}))
}

func (w *web) isKey(text string) bool {
	return subtle.ConstantTimeCompare([]byte(text), []byte(w.hub.pageKey())) == 1
}

// cookieName tells hubs on one machine apart: cookies know no ports.
func (w *web) cookieName() string {
	_, port, _ := net.SplitHostPort(w.hub.HTTPSAddr())
	return "__Host-hubsim-" + port
}

// render writes a page.
func (w *web) render(out http.ResponseWriter, status int, name string, data any) {
	text, err := w.fragment(name, data)
	if err != nil {
		w.hub.log.Error().Err(err).Msg("web face")
		http.Error(out, "the page cannot be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	out.Header().Set("Content-Type", "text/html; charset=utf-8")
	out.WriteHeader(status)
	_, _ = out.Write(text)
}

// fragment is a template filled in.
func (w *web) fragment(name string, data any) ([]byte, error) {
	pages, err := w.pages()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := pages.ExecuteTemplate(&text, name, data); err != nil {
		return nil, fmt.Errorf("template %s: %w", name, err)
	}
	return text.Bytes(), nil
}
