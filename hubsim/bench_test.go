package hubsim_test

import (
	"fmt"
	"sync"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// BenchmarkPublish is what bare paho gets out of the hub: telemetry at QoS 1 of 200 bytes, over TLS,
// 16 publishes outstanding on each connection. The unit is one acknowledged message.
func BenchmarkPublish(b *testing.B) {
	for _, stored := range []string{"memory", "disk"} {
		for _, connections := range []int{1, 10, 100, 1000} {
			b.Run(fmt.Sprintf("%s/connections=%d", stored, connections), func(b *testing.B) {
				cfg := hubConfig()
				if stored == "disk" {
					cfg.Dir = b.TempDir()
				}
				benchmarkPublish(b, startHub(b, cfg), connections)
			})
		}
	}
}

func benchmarkPublish(b *testing.B, hub *testHub, connections int) {
	clients := make([]mqtt.Client, connections)
	for i := range clients {
		clients[i] = hub.paho(b, fmt.Sprintf("dev%d", i))
	}
	body := make([]byte, 200)
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for i, client := range clients {
		share := b.N / connections
		if i < b.N%connections {
			share++
		}
		topic := fmt.Sprintf("devices/dev%d/messages/events/%%24.mid=m&%%24.ct=application%%2Fjson&%%24.ce=utf-8", i)
		all.Go(func() { publishWindow(b, client, topic, body, share) })
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// publishWindow publishes n messages with at most 16 outstanding.
func publishWindow(t testing.TB, client mqtt.Client, topic string, body []byte, n int) {
	window := make(chan mqtt.Token, 16)
	var done sync.WaitGroup
	done.Go(func() {
		for token := range window {
			if token.Wait(); token.Error() != nil {
				t.Error(token.Error())
			}
		}
	})
	for range n {
		window <- client.Publish(topic, 1, false, body)
	}
	close(window)
	done.Wait()
}
