package catalogfile

import (
	"bytes"
	_ "embed"
)

//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of the file, for editors. Every
// file that Parse accepts satisfies it; Parse refuses more than it can say.
func Schema() []byte { return bytes.Clone(schema) }
