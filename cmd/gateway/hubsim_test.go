package main

import "testing"

func TestAConnectionStringSaysWhereTheHubIsAndWhatItIsCalled(t *testing.T) {
	for _, c := range []struct{ host, address, name, key, want string }{
		{"localhost", "127.0.0.1:8883", "dev1", "a2V5", "HostName=localhost;DeviceId=dev1;SharedAccessKey=a2V5"},
		{"localhost", "127.0.0.1:18883", "dev1/m", "a2V5", "HostName=localhost:18883;DeviceId=dev1;ModuleId=m;SharedAccessKey=a2V5"},
		{"localhost", "10.0.0.7:8883", "dev1", "a2V5", "HostName=10.0.0.7;DeviceId=dev1;SharedAccessKey=a2V5"},
		{"plant7.azure-devices.net", "127.0.0.1:8883", "dev1", "a2V5", "HostName=plant7.azure-devices.net;DeviceId=dev1;SharedAccessKey=a2V5;GatewayHostName=localhost"},
		{"plant7.azure-devices.net", "[::1]:1883", "dev1", "", "HostName=plant7.azure-devices.net;DeviceId=dev1;x509=true;GatewayHostName=localhost:1883"},
	} {
		if got := deviceConnectionString(c.host, c.address, c.name, c.key); got != c.want {
			t.Errorf("%s at %s: %s, want %s", c.host, c.address, got, c.want)
		}
	}
}
