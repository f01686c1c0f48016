# make test    everything that continuous integration runs
# make fuzz    every fuzz target for FUZZTIME= (built in 30000x inputs; at the end of a time such as 5s Go itself
#              fails now and then)
# make proof   the promise, at length, from SEED= (built in random). Of the queue: power cuts of its disk,
#              IMAGES= (built in 100,000), and of an ext4 under it, EXT4_IMAGES= (1,000); every failure of
#              the disk; its model, CASES= (200,000); a day without the hub, MESSAGES= (8,640,000).
#              kill -9 under load, CYCLES= times (100); the service under a real systemd, in a container;
#              random packets at the simulated hub for MINUTES= (10); no wrong value from Modbus devices that
#              misbehave, READS= (1,000,000); IDENTITIES= (2,000) over TLS while their hub is
#              killed and comes back, the trouble of some beside 500 others, the true source of FLEET_MESSAGES=
#              (1,000,000), a pool in a bad network for STORM= minutes (5), RENEWALS= (300) with a thousand
#              messages in flight; RELOADS= (300) of changing mappings under load. Takes root, and downloads a
#              Debian once
# make soak    the load of kill -9 for HOURS= (24), each run of the gateway for up to ten minutes
# make build   the gateway for this machine, into bin/
# make cross   the gateway for every platform it ships on, into bin/
# make bench   every published figure beside its limit, into bench/RESULTS.md and bench/results.json

GO ?= go
export CGO_ENABLED ?= 1

# What the tests need beside Go: COMMAND=PACKAGE or FILE=PACKAGE of Debian.
PEERS := systemd-analyze=systemd mosquitto_pub=mosquitto-clients mbpoll=mbpoll \
	/usr/include/stdio.h=libc6-dev /usr/include/modbus/modbus.h=libmodbus-dev socat=socat \
	coap-client-openssl=libcoap3-bin chromium=chromium \
	/usr/bin/python3=python3 /usr/lib/python3/dist-packages/paho/mqtt/client.py=python3-paho-mqtt

# What reads bytes of strangers: PACKAGE/TARGET.
FUZZ := $(addprefix hubsim/,FuzzPacketReader FuzzTopics FuzzBag FuzzParseToken FuzzParseUserName FuzzReportedPatch FuzzQuery) \
	$(addprefix adapters/modbus/,FuzzDecode FuzzWrite FuzzFind) mapping/FuzzLocate internal/dial/FuzzGuard identity/FuzzProvisioningTopic $(addprefix upstream/,FuzzTelemetryTopic FuzzMessageBag)
FUZZTIME ?= 30000x

.PHONY: test fuzz proof soak lint build cross bench

test: lint cross
	e2e/peers.sh $(PEERS)
	$(GO) test -race -timeout 10m ./...
	$(MAKE) fuzz

fuzz:
	for target in $(FUZZ); do $(GO) test -run '^$$' -fuzz "^$${target##*/}\$$" -fuzztime $(FUZZTIME) "./$${target%/*}" || exit 1; done

proof:
	e2e/peers.sh systemd-nspawn=systemd-container debootstrap=debootstrap mkfs.ext4=e2fsprogs
	$(GO) test -tags proof -run Proof -count=1 -v -timeout 90m ./buffer
	$(GO) test -tags proof -run Proof -count=1 -v -timeout 60m ./e2e
	$(GO) test -tags proof -run Proof -count=1 -v -timeout 60m ./hubsim
	$(GO) test -tags proof -run Proof -count=1 -v -timeout 60m ./upstream
	$(GO) test -tags proof -run Proof -count=1 -v -timeout 60m ./adapters/modbus
	$(GO) test -tags proof -run Proof -count=1 -v -timeout 20m ./cmd/gateway
	$(MAKE) fuzz FUZZTIME=1000000x
	$(GO) test -tags proof -run Systemd -count=1 -v -timeout 10m ./e2e

soak:
	$(GO) test -tags proof -run Soak -count=1 -v -timeout 0 ./e2e

lint:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "run gofmt -w on:" $$unformatted; exit 1; fi
	$(GO) vet -tags proof ./...

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags=-s -o bin/gateway ./cmd/gateway

cross:
	for arch in amd64 arm64 arm; do CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -ldflags=-s -o bin/gateway-linux-$$arch ./cmd/gateway || exit 1; done

bench:
	$(GO) run ./bench
