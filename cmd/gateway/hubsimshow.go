package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	gateway "iothub-gateway"
	"iothub-gateway/hubsim"
	"iothub-gateway/mapping"
)

// show says where everything is.
func (o *hubsimOptions) show(w io.Writer, hub *hubsim.Hub, strs []string) {
	t := newTable(w, "what", "where")
	t.AppendRow(table.Row{"name of the hub", cmp.Or(o.HostName, "localhost")})
	t.AppendRow(table.Row{"devices connect to", "mqtts://" + hub.MQTTAddr()})
	t.AppendRow(table.Row{"or by WebSocket to", "wss://" + hub.HTTPSAddr() + "/$iothub/websocket"})
	t.AppendRow(table.Row{"provisioning service", hub.MQTTAddr() + ", id scope " + hub.IDScope()})
	t.AppendRow(table.Row{"applications use", "https://" + hub.HTTPSAddr()})
	if o.Dir != "" {
		t.AppendRow(table.Row{"certificate to trust", filepath.Join(o.Dir, "ca.pem")})
	} else {
		t.AppendRow(table.Row{"certificate to trust", "https://" + hub.HTTPSAddr() + "/hubsim/ca.pem"})
	}
	page := "what gateway hub page prints" // with its key, which is for people, not for a log
	if terminal(w) {
		page = hub.PageURL()
	}
	t.AppendRow(table.Row{"in a browser", page})
	t.AppendRow(table.Row{"see what arrives with", "gateway hub watch"})
	t.AppendRow(table.Row{"call a method with", "gateway hub call DEVICE METHOD JSON"})
	t.Render()
	if len(strs) > 0 {
		fmt.Fprintln(w, "\nConnection strings of devices, for their SDKs:")
	}
	for _, s := range strs {
		fmt.Fprintln(w, s)
	}
}

// deviceConnectionString is what an SDK wants to know (CON-8) about a DEVICE or DEVICE/MODULE of the hub
// called host, which serves MQTT at address ("": where its name says). Without a key the device proves
// itself with a certificate.
func deviceConnectionString(host, address, name, key string) string {
	place := "localhost"
	if address == "" {
		place = host
	}
	if ip, port, err := net.SplitHostPort(address); err == nil {
		if !isLocal(ip) {
			place = ip
		}
		if port != "8883" {
			place = net.JoinHostPort(place, port)
		}
	}
	device, module, _ := strings.Cut(name, "/")
	s, by := "HostName="+place, ""
	if !isLocal(host) && place != host {
		s, by = "HostName="+host, ";GatewayHostName="+place
	}
	s += ";DeviceId=" + device
	if module != "" {
		s += ";ModuleId=" + module
	}
	if key == "" {
		return s + ";x509=true" + by
	}
	return s + ";SharedAccessKey=" + key + by
}

// noteOf says how to reach hub, which knows the plant, or none if that is nil.
func noteOf(hub *hubsim.Hub, plant *mapping.Plant) simulator {
	methods := map[gateway.IdentityID][]string{}
	if plant != nil {
		for _, m := range plant.Methods {
			methods[m.Identity] = append(methods[m.Identity], m.Name)
		}
	}
	return simulator{
		Methods: methods, Page: hub.PageURL(),
		PID: os.Getpid(), URL: "https://" + hub.HTTPSAddr(), MQTT: hub.MQTTAddr(),
		CA: string(hub.CAPEM()), ConnectionString: hub.ServiceConnectionString(),
	}
}
