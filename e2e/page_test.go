package e2e

import (
	"strings"
	"testing"
	"time"

	"iothub-gateway/hubsim"
	"iothub-gateway/internal/testkit"
)

// waitForPage is how long a page may take to show something.
const waitForPage = 20 * time.Second

// A person looks at the simulator's page while a device of Microsoft's SDK lives on it.
func TestThePageShowsADeviceOfMicrosoftsSDK(t *testing.T) {
	hub := startHubAs(t, hubsim.Config{HostName: sdkName})
	v := sdkVariant{transport: "Mqtt", proof: "sas"}
	device := startSDKAt(t, hub, v.config(t, hub))
	page := startChromium(t, hub)
	page.open(hub.PageURL())
	page.shows("#link", "live")
	page.shows("#rows", "disconnected")
	if at := page.value("location.href"); strings.Contains(at, "key=") {
		t.Errorf("the key stays in the address: %s", at)
	}

	device.do("open", nil)
	testkit.Within(t, waitForPage, "the device shows as connected", func() bool {
		return page.value(find("#rows .pill.good")+".innerText") == "connected"
	})
	device.do("send", fields{"body": `{"temp":"<b id=evil>21.5</b>"}`, "properties": fields{"line": "3"}})
	page.shows("#messages", `{"temp":"<b id=evil>21.5</b>"}`)
	page.shows("#messages", "line=3")
	if page.value("document.getElementById('evil')") != "null" {
		t.Error("markup in a message became part of the page")
	}
	page.click("#rows a")
	page.shows("h1", "dev1")
	page.shows("#link", "live")
	page.shows("#messages", "21.5")

	callsAMethodOn(page, device)
	editsTheTwinOn(page, device)
	sendsAMessageOn(page, device)

	hub.RefuseConnects("dev1", 3, 1<<20)
	hub.Kick("dev1")
	page.shows("#rows", "disconnected")
	hub.RefuseConnects("dev1", 0, 0)
	looksWellOnAPhone(t, page)
	catchesUpWhenSeenAgain(t, hub, page)
	page.isUnharmed()
}

func callsAMethodOn(page *chromium, device *sdkDevice) {
	page.t.Helper()
	device.do("method", fields{"name": "reboot", "status": 207})
	page.fill("#call [name=name]", "reboot")
	page.fill("#call [name=payload]", `{"delay": 5}`)
	page.click("#call button")
	page.shows("#call", "status 207")
	page.shows("#call pre", `"delay": 5`)
	if got := device.event(1, "method"); got.Name != "reboot" || string(got.Payload) != `{"delay":5}` {
		page.t.Errorf("the device was called with %s %s", got.Name, got.Payload)
	}
}

func editsTheTwinOn(page *chromium, device *sdkDevice) {
	page.t.Helper()
	device.do("twin", nil)
	page.fill("#twin [name=desired]", `{"interval": 10}`)
	page.click("#twin button")
	page.shows("#twin [role=status]", "saved as version")
	first := device.event(1, "desired") // the SDK hands out first what it was given
	if got := string(device.event(2, "desired").Payload); got != `{"interval":10,"$version":2}` {
		page.t.Errorf("the device was told %s and %s", first.Payload, got)
	}
	device.do("report", fields{"patch": fields{"firmware": "2.0"}})
	page.shows("#reported", `"firmware": "2.0"`)
}

func sendsAMessageOn(page *chromium, device *sdkDevice) {
	page.t.Helper()
	device.do("messages", nil)
	page.fill("#send [name=properties]", "line=3")
	// Nothing tells when the SDK has subscribed; what was sent before is dropped.
	testkit.Within(page.t, waitForPage, "a message reaches the device", func() bool {
		page.fill("#send [name=body]", "open the valve")
		page.click("#send button")
		page.shows("#send [role=status]", "is sent")
		device.mu.Lock()
		defer device.mu.Unlock()
		for _, line := range device.lines {
			if line.Event == "message" && line.Body == "open the valve" && line.Properties["line"] == "3" {
				return true
			}
		}
		return false
	})
}

// looksWellOnAPhone wants nothing to stick out at the right, and a dark ground for who asks for one.
func looksWellOnAPhone(t *testing.T, page *chromium) {
	t.Helper()
	page.do("Emulation.setDeviceMetricsOverride", fields{"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true}, nil)
	if got := page.value("document.documentElement.scrollWidth"); got != "360" {
		t.Errorf("on a screen of 360 px the page is %s px wide", got)
	}
	ground := "getComputedStyle(document.body).backgroundColor"
	for scheme, want := range map[string]string{"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"} {
		page.do("Emulation.setEmulatedMedia", fields{"features": []fields{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
		if got := page.value(ground); got != want {
			t.Errorf("%s: the ground is %s, want %s", scheme, got, want)
		}
	}
}

// catchesUpWhenSeenAgain hides the page, as another tab does, while something happens.
func catchesUpWhenSeenAgain(t *testing.T, hub *hubsim.Hub, page *chromium) {
	t.Helper()
	hide := func(hidden string) {
		page.value("Object.defineProperty(document, 'hidden', {value: " + hidden + ", configurable: true})")
		page.value("document.dispatchEvent(new Event('visibilitychange'))")
	}
	hide("true")
	serviceOf(t, hub).do("PATCH", "/twins/dev1?api-version=2021-04-12", `{"tags":{"hall":"seven"}}`, nil)
	hide("false")
	testkit.Within(t, waitForPage, "the page has the tag that was set meanwhile", func() bool {
		return strings.Contains(page.value(find("#twin [name=tags]")+".value"), `"hall": "seven"`)
	})
}
