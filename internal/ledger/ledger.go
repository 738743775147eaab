// Package ledger is the forms in which takes and events are kept: what each one
// did, as bytes of a stored row, written and read back without loss. It reads no
// database and decides nothing.
package ledger
