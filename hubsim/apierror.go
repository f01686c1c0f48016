package hubsim

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Error is an error of the hub's service side as REST shows it (SVC-5, MON-10).
type Error struct {
	// Status is the HTTP status, Code the six-digit error code, 0 if there is none.
	Status, Code int
	// Name is the error's name, also in the header iothub-errorcode, such as DeviceNotOnline.
	Name string
	// Message is for people.
	Message string
	// nested: the newer body, JSON inside a string (METH-14), with the time-out that ran out.
	nested  bool
	timeout time.Duration
}

// Error is the error with its code.
func (e *Error) Error() string {
	return fmt.Sprintf("hubsim: %d %s: %s", e.Code, e.Name, e.Message)
}

// apiCode is one of the errors that the service side knows.
type apiCode uint8

const (
	errArgument apiCode = iota
	errVersion
	errUnauthorized
	errNoDevice
	errNoModule
	errOffline
	errReplaced
	errTooManyCalls
	errTooLarge
	errQueueFull
	errNoAnswer
	errPrecondition
	errTooManyModules
	errThrottled
	errQuota
	errTier
	errDeviceExists
	errModuleExists
	errScope
	errAbsent
	errInternal
)

// apiError is a fresh error of a kind.
func apiError(code apiCode) *Error {
	switch code {
	case errArgument:
		return &Error{Status: http.StatusBadRequest, Code: 400004, Name: "ArgumentInvalid"}
	case errVersion:
		return &Error{Status: http.StatusBadRequest, Code: 400001, Name: "InvalidProtocolVersion", Message: "api-version is missing or not a date since 2016-11-14"}
	case errUnauthorized:
		return &Error{Status: http.StatusUnauthorized, Code: 401002, Name: "IotHubUnauthorizedAccess"}
	case errNoDevice:
		return &Error{Status: http.StatusNotFound, Code: 404001, Name: "DeviceNotFound"}
	case errNoModule:
		return &Error{Status: http.StatusNotFound, Code: 404010, Name: "ModuleNotFound"}
	case errOffline:
		return &Error{Status: http.StatusNotFound, Code: 404103, Name: "DeviceNotOnline", Message: "Timed out waiting for device to connect.", nested: true}
	case errReplaced:
		return &Error{Status: http.StatusBadRequest, Code: 400027, Name: "ConnectionForcefullyClosedOnNewConnection", Message: "The device connected again while the call was open.", nested: true}
	case errTooManyCalls:
		return &Error{Status: http.StatusForbidden, Code: 403800, Name: "DeviceMaximumInflightMethodExceeded", Message: "Too many method calls are open for this device."}
	case errTooLarge:
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: 413001, Name: "MessageTooLarge"}
	case errTooManyModules:
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: 413003, Name: "TooManyModulesOnDevice"}
	case errThrottled:
		return &Error{Status: http.StatusTooManyRequests, Code: 429001, Name: "ThrottlingException", Message: "Too many requests; the hub's limit of such operations is exceeded."}
	case errQuota:
		return &Error{Status: http.StatusForbidden, Code: 403002, Name: "IotHubQuotaExceeded", Message: "The daily quota of messages is used up."}
	case errTier:
		return &Error{Status: http.StatusForbidden, Code: 403010, Name: "OperationNotAvailableInCurrentTier", Message: "A basic hub does not have this."}
	case errPrecondition:
		return &Error{Status: http.StatusPreconditionFailed, Code: 412001, Name: "PreconditionFailed"}
	case errDeviceExists:
		return &Error{Status: http.StatusConflict, Code: 409001, Name: "DeviceAlreadyExists"}
	case errModuleExists:
		return &Error{Status: http.StatusConflict, Code: 409301, Name: "ModuleAlreadyExistsOnDevice"}
	case errScope:
		return &Error{Status: http.StatusBadRequest, Code: 400028, Name: "InvalidDeviceScope"}
	case errAbsent:
		return &Error{Status: http.StatusNotImplemented, Code: 501000, Name: "NotImplemented"}
	case errQueueFull:
		return &Error{Status: http.StatusForbidden, Code: 403004, Name: "DeviceMaximumQueueDepthExceeded"}
	case errNoAnswer:
		return &Error{Status: http.StatusGatewayTimeout, Code: 504101, Name: "GatewayTimeout", Message: "Timed out waiting for the response from device.", nested: true}
	}
	return &Error{Status: http.StatusInternalServerError, Code: 500001, Name: "ServerError"}
}

func noDevice(device string) *Error { return apiError(errNoDevice).because("no device " + device) }

func noModule(device, module string) *Error {
	return apiError(errNoModule).because("no module " + module + " of device " + device)
}

// because sets the text.
func (e *Error) because(message string) *Error {
	e.Message = message
	return e
}

// after sets the time-out that ran out.
func (e *Error) after(timeout time.Duration) *Error {
	e.timeout = timeout
	return e
}

// errorBody is what every error of the service side looks like.
type errorBody struct {
	Message          string
	ExceptionMessage string
}

// body is the error's JSON: "ErrorCode:Name;text" for clients that look for the name (SVC-6), or JSON in
// a string.
func (e *Error) body(now time.Time) ([]byte, error) {
	stamp := now.UTC().Format("01/02/2006 15:04:05")
	tracking := fmt.Sprintf("%s-TimeStamp:%s", rand.Text(), stamp)
	if !e.nested {
		return json.Marshal(errorBody{
			Message: "ErrorCode:" + e.Name + ";" + e.Message, ExceptionMessage: "Tracking ID:" + tracking,
		})
	}
	inner, err := json.Marshal(struct {
		ErrorCode    int               `json:"errorCode"`
		TrackingID   string            `json:"trackingId"`
		Message      string            `json:"message"`
		Info         map[string]string `json:"info"`
		TimestampUTC string            `json:"timestampUtc"`
	}{e.Code, tracking, e.Message, map[string]string{"timeout": clock(e.timeout)}, now.UTC().Format(time.RFC3339Nano)})
	if err != nil {
		return nil, err
	}
	return json.Marshal(errorBody{Message: string(inner)})
}

// deviceBody is the error as a device gets it (TWIN-23).
func (e *Error) deviceBody(now time.Time) ([]byte, error) {
	return json.Marshal(struct {
		ErrorCode    int    `json:"errorCode"`
		TrackingID   string `json:"trackingId"`
		Message      string `json:"message"`
		TimestampUTC string `json:"timestampUtc"`
	}{e.Code, rand.Text(), e.Message, now.UTC().Format(time.RFC3339Nano)})
}

// clock writes a duration as hh:mm:ss.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
