// Package mapping turns mapping.yaml into a checked Plant.
//
// Its promise: a Plant cannot be wrong. Every mistake of the file is found at once, with the line and
// column of the key or value that is to blame, what is wrong there and what to write instead; a file
// with one error yields no Plant at all. What is ambiguous in a manual (where counting starts) or can
// hurt (writing) has no default. A key of the hub is named by reference only, and no message ever
// shows one, not even when it stands in the file by mistake.
//
// The form of the file is fixed by docs/mapping.md, which also lists every finding.
package mapping
