package gateway_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "iothub-gateway"

// layers says which packages of ours a package may import. Test files may also use testOnly. A new
// arrow needs a line here, hence a decision.
var layers = map[string][]string{
	".":                    {},
	"hubsim":               {}, // shares nothing with what it judges
	"internal/dial":        {},
	"internal/control":     {},
	"internal/status":      {},
	"internal/faultnet":    {},
	"profiles":             {},
	"internal/testkit":     {}, // what tests share; no product code
	"internal/powerfs":     {}, // a file system that forgets what was not flushed (tests)
	"adapters/modbus":      {"."},
	"adapters/coap":        {"."},
	"adapters/adaptertest": {"."},
	"buffer":               {"."},
	"bridge":               {"."},
	"identity":             {".", "internal/dial"},
	"mapping":              {".", "adapters/modbus", "adapters/coap", "identity", "profiles"},
	"devsim":               {".", "mapping", "adapters/modbus", "adapters/coap"},
	"upstream":             {".", "buffer", "identity", "internal/dial"},
	"cmd/gateway": {
		".", "adapters/modbus", "adapters/coap", "buffer", "bridge", "identity", "mapping", "devsim", "upstream",
		"hubsim", "internal/dial", "internal/control", "internal/status",
	},
	"e2e":   {".", "hubsim", "devsim", "mapping", "internal/control", "internal/faultnet", "internal/powerfs"},
	"bench": {".", "adapters/modbus", "adapters/coap", "buffer", "bridge", "identity", "mapping", "devsim", "upstream", "hubsim", "internal/dial"},
}

// testOnly are what tests may import beside their package's layers.
var testOnly = []string{"hubsim", "devsim", "internal/faultnet", "internal/powerfs", "internal/testkit", "adapters/adaptertest", "mapping"}

// The imports are read with go/parser rather than by running the go command: so the test cache sees
// when they change.
func TestNoPackageImportsWhatTheDesignForbids(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		seen++
		pkg := filepath.ToSlash(filepath.Dir(path))
		allowed, known := layers[pkg]
		if !known {
			t.Errorf("%s: package %s has no line in layers", path, pkg)
			return nil
		}
		if strings.HasSuffix(path, "_test.go") {
			allowed = append(append(slices.Clone(allowed), testOnly...), pkg, ".")
		}
		for _, name := range ownImports(t, path) {
			if !slices.Contains(allowed, name) {
				t.Errorf("%s: %s may not import %s", path, pkg, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 3 {
		t.Fatalf("only %d Go files found: the walk is broken", seen)
	}
}

// ownImports lists the packages of this module that a file imports, "." being the root.
func ownImports(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, spec := range file.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if name == module {
			own = append(own, ".")
		} else if rest, ok := strings.CutPrefix(name, module+"/"); ok {
			own = append(own, rest)
		}
	}
	return own
}
