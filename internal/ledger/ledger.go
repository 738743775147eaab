// Package ledger has the forms in which takes and events are stored: what each one
// did, as the bytes of a row. What is written is read back without loss. It reads no
// database and decides nothing.
//
// The ledger has three parts. A take's answer (EncodeAnswer) is its idempotency
// record and its ledger entry in one row. An event's readings (EncodeReadings) are
// what it did to each feature. Takes older than Kept are folded: their rows are
// deleted, and one row for each bucket and minute keeps what they added. From these
// and from the open reservations and seats every bucket and report can be computed
// again, which package fsck does.
package ledger
