package identity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// redacted is what every way of printing a Secret shows.
const redacted = "[secret]"

// Secret is text that must not be seen: a key, a token. All of fmt's verbs, JSON, YAML and text
// marshalling show "[secret]"; deep inside a struct whose field is not exported, where fmt calls no
// method, they show an address. The content is had only by Reveal. The zero Secret is empty.
type Secret struct{ text *string }

// NewSecret hides text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal is the content; for the one place that sends or signs it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String is "[secret]".
func (s Secret) String() string { return redacted }

// MarshalText is "[secret]"; JSON uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Ref says where a secret is kept, as the mapping spells it: "file:PATH", "env:NAME" or
// "credential:NAME" (a file of the systemd credentials directory).
type Ref string

// ErrClearText is the error of ParseRef for text that is no reference: most likely somebody wrote
// the key itself. The text is not repeated.
var ErrClearText = errors.New("this looks like a key in clear text")

// ErrMissing is wrapped by the error of Resolve when nothing is there: no such file, variable or
// credential.
var ErrMissing = errors.New("secret is missing")

// ErrExposed is wrapped by the error of Resolve when a file can be read by others.
var ErrExposed = errors.New("others can read it")

// ErrNotYetValid is wrapped by the error of a login whose proof will hold only later: a clock is wrong,
// this machine's or that of who made the proof.
var ErrNotYetValid = errors.New("is not valid")

// ParseRef checks the form of a reference. Its error never contains the text.
func ParseRef(text string) (Ref, error) {
	scheme, name, found := strings.Cut(text, ":")
	switch {
	case !found || (scheme != "file" && scheme != "env" && scheme != "credential"):
		return "", ErrClearText
	case name == "":
		return "", fmt.Errorf("%s: names nothing", scheme)
	case scheme == "credential" && (strings.ContainsRune(name, '/') || name == "." || name == ".."):
		return "", errors.New("credential: takes a name, not a path")
	}
	return Ref(text), nil
}

// Source is where secrets are looked up. The zero Source knows no credentials.
type Source struct {
	// Dir is what relative file: paths stand in, usually the mapping's directory.
	Dir string
	// Credentials is systemd's credentials directory ($CREDENTIALS_DIRECTORY), "" if there is none. The
	// credential NAME is its file NAME, or keys_NAME if the service loads a directory called keys.
	Credentials string
}

// Resolve reads the secret that ref refers to; surrounding white space is cut off. The error names
// the reference and wraps ErrMissing or ErrExposed where that is the cause.
func (s Source) Resolve(ref Ref) (Secret, error) {
	scheme, name, _ := strings.Cut(string(ref), ":")
	if scheme == "env" {
		if text, ok := os.LookupEnv(name); ok && text != "" {
			return NewSecret(strings.TrimSpace(text)), nil
		}
		return Secret{}, fmt.Errorf("%s: %w: the environment variable is not set", ref, ErrMissing)
	}
	path := name
	directory := filepath.Join(s.Credentials, credentialDirectory+"_"+name)
	switch {
	case scheme == "credential" && s.Credentials == "":
		return Secret{}, fmt.Errorf("%s: %w: credentials are there only inside the service; put the key into the file %s of its credentials directory", ref, ErrMissing, name)
	case scheme == "credential" && exists(directory):
		path = directory
	case scheme == "credential":
		path = filepath.Join(s.Credentials, name)
	case !filepath.IsAbs(path):
		path = filepath.Join(s.Dir, path)
	}
	return readSecretFile(ref, path, scheme == "file")
}

// credentialDirectory is the name under which the service loads a directory of keys: systemd hands a
// directory's files over as NAME_FILE.
const credentialDirectory = "keys"

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// PSK finds pre-shared keys in dir: one file a key, named like its PSK identity and readable by its
// owner only; the key is the file's text. Who knocks chooses the identity, so one that could lead out
// of dir has no key. Files are read at each call: a key that is exchanged or removed is so at once.
func (s Source) PSK(dir string) func(identity string) (key []byte, ok bool) {
	return func(name string) ([]byte, bool) {
		if name == "" || len(name) > 128 || name[0] == '.' || strings.ContainsAny(name, "/\\\x00") {
			return nil, false
		}
		secret, err := s.Resolve(Ref("file:" + filepath.Join(dir, name)))
		return []byte(secret.Reveal()), err == nil
	}
}

func readSecretFile(ref Ref, path string, guard bool) (Secret, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && !guard {
		return Secret{}, fmt.Errorf("%s: %w: the service was started without it; put the key into the service's credentials directory and restart", ref, ErrMissing)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Secret{}, fmt.Errorf("%s: %w: no file %s", ref, ErrMissing, path)
	}
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %w", ref, err)
	}
	if mode := info.Mode().Perm(); guard && mode&0o077 != 0 {
		return Secret{}, fmt.Errorf("%s: %w (mode %04o); chmod 600 %s", ref, ErrExposed, mode, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Secret{}, fmt.Errorf("%s: %w", ref, err)
	}
	if trimmed := strings.TrimSpace(string(text)); trimmed != "" {
		return NewSecret(trimmed), nil
	}
	return Secret{}, fmt.Errorf("%s: %w: the file %s is empty", ref, ErrMissing, path)
}

// SharedKey is Resolve for a shared access key in base64: what is none is an error that names the reference.
func (s Source) SharedKey(ref Ref) (Secret, error) {
	key, err := s.Resolve(ref)
	if err != nil {
		return Secret{}, err
	}
	if _, err := decodeKey(key); err != nil {
		return Secret{}, fmt.Errorf("%s: %w", ref, err)
	}
	return key, nil
}

// decodeKey is the binary key of a base64 shared access key (SAS-5). Its error never shows the key.
func decodeKey(key Secret) ([]byte, error) {
	if strings.Contains(key.Reveal(), "SharedAccessKey=") {
		return nil, errors.New("this is a connection string; keep only what follows SharedAccessKey=")
	}
	raw, err := base64.StdEncoding.DecodeString(key.Reveal())
	if err != nil || len(raw) == 0 {
		return nil, errors.New("the shared access key is not base64; copy it whole, with the = at its end")
	}
	return raw, nil
}
