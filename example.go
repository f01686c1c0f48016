package gateway

import _ "embed"

//go:embed mapping.yaml
var exampleMapping string

// ExampleMapping is the annotated mapping.yaml that ships with the product: the demo's plant.
func ExampleMapping() []byte { return []byte(exampleMapping) }
