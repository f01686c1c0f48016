#!/bin/sh
# Runs the sample programs of Microsoft's service SDK for Node, as they are, against a simulated hub, and says
# what became of each:
#
#   e2e/azure-sdk/samples.sh GATEWAY SAMPLES
#
# GATEWAY is the program. SAMPLES is the folder samples of a checkout of github.com/Azure/azure-iot-hub-node
# (tried with e6ec8b3); no package in the npm registry has it, which is why make test drives the same calls
# of the SDK through service.js instead. Those that need AMQP, a storage account, jobs, configurations or
# digital twins are left out.
set -eu
gateway=$(realpath "$1")
samples=$(realpath "$2")
cd "$(dirname "$0")"
dir=$(mktemp -d)
name=contoso.azure-devices.net
"$gateway" hubsim --host $name --dir "$dir" --mqtt 127.0.0.1:18883 --https 127.0.0.1:18443 --device dev1/mod1 >"$dir/out" 2>"$dir/log" &
hub=$!
devices=""
# shellcheck disable=SC2086 # one word a process
trap 'kill $hub $devices 2>/dev/null || true; wait; rm -rf "$dir"' EXIT
until [ -s "$dir/out" ] && [ -s "$dir/ca.pem" ]; do sleep 0.1; done
export NODE_PATH="$PWD/node_modules" NODE_OPTIONS="--require $PWD/ports.js" NODE_EXTRA_CA_CERTS="$dir/ca.pem"
export HUB_MQTT=127.0.0.1:18883 HUB_HTTPS=127.0.0.1:18443
token=$("$gateway" hub token --service)
ask() { curl -sS --cacert "$dir/ca.pem" --resolve $name:18443:127.0.0.1 -H "Authorization: $token" "https://$name:18443$1"; }
IOTHUB_CONNECTION_STRING="HostName=$name;SharedAccessKeyName=iothubowner;SharedAccessKey=$(ask /hubsim/policies | node -pe 'JSON.parse(fs.readFileSync(0)).find((p) => p.keyName === "iothubowner").primaryKey')"
export IOTHUB_CONNECTION_STRING

# device ID [MODULE] answers the method reboot.
device() {
	path="/devices/$1${2:+/modules/$2}?api-version=2021-04-12"
	config=$(ask "$path" | node -pe 'const d = JSON.parse(fs.readFileSync(0)); JSON.stringify({ transport: "Mqtt", module: d.moduleId, ca: fs.readFileSync(process.env.NODE_EXTRA_CA_CERTS, "utf8"), connectionString: `HostName='$name';DeviceId=${d.deviceId}` + (d.moduleId ? `;ModuleId=${d.moduleId}` : "") + `;SharedAccessKey=${d.authentication.symmetricKey.primaryKey}` })')
	(printf '%s\n' '{"id":1,"op":"open"}' '{"id":2,"op":"method","name":"reboot","status":200}'; sleep 600) | node device.js "$config" >"$dir/$1${2:-}" &
	devices="$devices $!"
	until grep -q '"id":2' "$dir/$1${2:-}"; do sleep 0.1; done
}
device dev1
device dev1 mod1

failed=0
# try WANTED PROGRAM [ARGUMENT...] runs a sample, whose output must have a text and no failure.
try() {
	wanted=$1
	shift
	if node "$samples/$1" "$@" >"$dir/said" 2>&1 && grep -q -- "$wanted" "$dir/said" && ! grep -qiE 'error:|fail|could not' "$dir/said"; then
		echo "ok    $1"
	else
		echo "FAILS $1: wanted \"$wanted\""
		cat "$dir/said"
		failed=1
	fi
}
export IOTHUB_DEVICE_ID=dev1 IOTHUB_MODULE_ID=mod1 IOTHUB_METHOD_NAME=reboot IOTHUB_METHOD_PAYLOAD=now
try 'delete status: 204 No Content' registry_sample.js
try 'removing isSuccessful: true, errors returned: no errors' registry_addUpdateRemoveDevicesSample.js
try '"telemetryInterval": 2000' twin.js
try '"telemetryInterval": 2000' module_twin.js
try '^dev1$' twin_query.js
try '"called": "now"' device_method.js
try '"called": "now"' module_method.js
IOTHUB_MODULE_ID=mod2 try 'removeModule succeeded' module_sample.js
IOTHUB_DEVICE_ID=dev2 IOTHUB_PRIMARY_THUMBPRINT=8BAA7C1E6A3F40B2D9C5E4F1A0B3C6D7E8F90123 IOTHUB_SECONDARY_THUMBPRINT=8BAA7C1E6A3F40B2D9C5E4F1A0B3C6D7E8F90123 \
	try '"type":"selfSigned"' create_device_with_cert.js
exit $failed
