package devsim

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	gateway "iothub-gateway"
	"iothub-gateway/internal/testkit"
)

// raw is a bare connection to the boiler's link.
func raw(t *testing.T, s *Sim) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr(boiler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func wire(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(squeeze(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write(wire(t, text)); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	want := wire(t, text)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got % X (%v), want % X", got, err, want)
	}
}

// closed tells whether the peer has ended the connection.
func closed(conn net.Conn) bool {
	_, err := conn.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout")
}

const (
	readSetpoint = "0000 0006 01 03 0009 0001" // behind the transaction id
	setpointIs   = "0000 0005 01 03 02 023F"
)

func TestARequestInManySegmentsIsOneRequest(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conn := raw(t, s)
	for _, b := range wire(t, "1234"+readSetpoint) {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, conn, "1234"+setpointIs)
	if n := s.Requests(boiler); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestSeveralRequestsInOneSegmentAreAnsweredInOrder(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conn := raw(t, s)
	send(t, conn, "0001"+readSetpoint+"0002 0000 0006 01 2B 0E 01 00 00"+"FFFF"+readSetpoint)
	expect(t, conn, "0001"+setpointIs+"0002 0000 0003 01 AB 01"+"FFFF"+setpointIs)
	if n := s.Requests(boiler); n != 3 {
		t.Errorf("%d requests", n)
	}
}

func TestWhatIsNoModbusFrameClosesTheConnection(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	for name, garbage := range map[string]string{
		"HTTP":               hex.EncodeToString([]byte("GET / HTTP/1.1\r\n\r\n")),
		"protocol id":        "0001 0001 0006 01 03 0009 0001",
		"length without PDU": "0001 0000 0001 01",
		"length too great":   "0001 0000 00FF 01",
	} {
		conn := raw(t, s)
		send(t, conn, garbage)
		if !closed(conn) {
			t.Errorf("%s: the connection stays open", name)
		}
	}
	if n := s.Requests(boiler); n != 0 {
		t.Errorf("%d of them count as requests", n)
	}
	conn := raw(t, s)
	send(t, conn, "0001"+readSetpoint)
	expect(t, conn, "0001"+setpointIs)
}

func TestAnUnknownUnitIsAnsweredForLikeASerialGatewayDoes(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conn := raw(t, s)
	send(t, conn, "0001 0000 0006 09 03 0009 0001")
	expect(t, conn, "0001 0000 0003 09 83 0B")
	send(t, conn, "0002 0000 0006 00 03 0009 0001")
	expect(t, conn, "0002 0000 0003 00 83 0B")
}

func TestAMutedUnitNeitherAnswersNorActs(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conn := raw(t, s)
	s.Mute(boiler, 1, true)
	s.Mute(boiler, 9, true)
	// The last request is for another unit: its answer shows that the others got none.
	send(t, conn, "0001 0000 0006 01 06 0009 0190"+"0002 0000 0006 09 03 0009 0001"+"0003 0000 0006 07 03 0009 0001")
	expect(t, conn, "0003 0000 0003 07 83 0B")
	if n := s.Requests(boiler); n != 3 {
		t.Errorf("%d requests", n)
	}
	if v := numberOf(t, s, "boiler/setpoint"); v != 57.5 {
		t.Errorf("a muted unit took the setpoint %g", v)
	}
	s.Mute(boiler, 1, false)
	send(t, conn, "0004"+readSetpoint)
	expect(t, conn, "0004"+setpointIs)
}

func TestTheExceptionDialAnswersEverythingOfItsUnitAlone(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conn := raw(t, s)
	s.Exception(boiler, 1, 6)
	send(t, conn, "0001"+readSetpoint+"0002 0000 0006 01 06 0009 0190"+"0003 0000 0002 01 41")
	expect(t, conn, "0001 0000 0003 01 83 06"+"0002 0000 0003 01 86 06"+"0003 0000 0003 01 C1 06")
	set(t, s, "meter/gas", gateway.UintValue(7))
	send(t, conn, "0004 0000 0006 02 04 0004 0002")
	expect(t, conn, "0004 0000 0007 02 04 04 0000 0007")
	s.Exception(boiler, 1, 0)
	send(t, conn, "0005"+readSetpoint)
	expect(t, conn, "0005"+setpointIs)
}

func TestADroppedLinkClosesEveryConnectionAndTakesNewOnes(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	conns := []net.Conn{raw(t, s), raw(t, s), raw(t, s)}
	for _, conn := range conns {
		send(t, conn, "0001"+readSetpoint)
		expect(t, conn, "0001"+setpointIs)
	}
	s.Drop(boiler)
	for i, conn := range conns {
		if !closed(conn) {
			t.Errorf("connection %d stays open", i)
		}
	}
	conn := raw(t, s)
	send(t, conn, "0001"+readSetpoint)
	expect(t, conn, "0001"+setpointIs)
	l := s.links[boiler]
	testkit.Eventually(t, "the closed connections are forgotten", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.conns) == 1
	})
}

func TestASlowClientDoesNotHoldUpAnother(t *testing.T) {
	s := start(t, Config{Plant: boilerPlant()})
	slow, stuck, fast := raw(t, s), raw(t, s), raw(t, s)
	send(t, slow, "0001 0000 00") // half a header
	// This one asks and never reads, until its server cannot write any more.
	if err := stuck.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	flood := bytes.Repeat(wire(t, "0001 0000 0006 01 03 0000 007D"), 1000)
	for {
		if _, err := stuck.Write(flood); err != nil {
			break
		}
	}
	send(t, fast, "0001"+readSetpoint)
	expect(t, fast, "0001"+setpointIs)
}

// converseWith runs one connection of the boiler's link over a pipe, so that time is the bubble's.
func converseWith(t *testing.T, s *Sim, exchange func(conn net.Conn)) {
	client, server := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- newSession(s.links[boiler], server).converse(ctx) }()
	exchange(client)
	cancel()
	client.Close()
	<-done
}

func TestADelayedUnitActsAtOnceAndAnswersLate(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	synctest.Test(t, func(t *testing.T) {
		s.Delay(boiler, 1, 20*time.Minute)
		converseWith(t, s, func(conn net.Conn) {
			asked := time.Now()
			send(t, conn, "0001 0000 0006 01 06 0009 0190")
			synctest.Wait()
			if v := numberOf(t, s, "boiler/setpoint"); v != 40 {
				t.Errorf("not executed before the answer: %g", v)
			}
			expect(t, conn, "0001 0000 0006 01 06 0009 0190")
			if late := time.Since(asked); late != 20*time.Minute {
				t.Errorf("answered after %s", late)
			}
		})
	})
}

func TestTheEndOfRunCutsADelayShort(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	s.Delay(boiler, 1, time.Hour)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	conn := raw(t, s)
	send(t, conn, "0001"+readSetpoint)
	testkit.Eventually(t, "the request has arrived", func() bool { return s.Requests(boiler) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if !closed(conn) {
		t.Error("the connection outlives Run")
	}
	if conn, err := net.Dial("tcp", s.Addr(boiler)); err == nil {
		conn.Close()
		t.Error("the listener outlives Run")
	}
	if err := s.Run(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a second Run: %v, want net.ErrClosed", err)
	}
}

func TestAnEndedContextOnlyGivesThePortsBack(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", s.Addr(boiler))
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	l.Close()
}

func TestAConnectionAcceptedTooLateIsClosedAtOnce(t *testing.T) {
	s := build(t, Config{Plant: boilerPlant()})
	l := s.links[boiler]
	l.stop()
	client, server := net.Pipe()
	l.attend(t.Context(), server)
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want EOF", err)
	}
}

func TestATurnedDialAndGarbageAreLogged(t *testing.T) {
	var lines testkit.Log
	s := start(t, Config{Plant: boilerPlant(), Log: zerolog.New(&lines)})
	s.Mute(boiler, 3, true)
	conn := raw(t, s)
	send(t, conn, "0001 0002 0006 01")
	if !closed(conn) {
		t.Fatal("open")
	}
	testkit.Eventually(t, "a line about the garbage", func() bool { return strings.Contains(lines.String(), "not a Modbus/TCP frame") })
	if text := lines.String(); !strings.Contains(text, `"link":"boiler","unit":3,"mute":true`) {
		t.Errorf("no line about the dial in\n%s", text)
	}
}
