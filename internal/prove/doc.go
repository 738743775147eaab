// Package prove proves the whole from outside: it builds the real binary, loads it
// over HTTP, kills it and its database, and counts what was acknowledged. It contains
// only tests, and they know only what a client was answered. The one exception is the
// comparison of engine, servers and databases: it drops caches, so its servers run in
// this process.
//
// The sizes are small unless USHER_PROVE=full. Each test logs its seed, and USHER_SEED
// repeats it: the same customers and keys, and kills after the same number of calls,
// though never the same race.
package prove
