// Package prove proves the whole from outside: it builds the real binary, loads
// it over HTTP, kills it and its database, and counts what was acknowledged. It
// has tests only, and refuses to look inside: what it believes is what a client
// was told. The one exception is the comparison of engine, servers and databases,
// which drops caches, and so has its servers in this process.
//
// The sizes are small unless USHER_PROVE=full. Each test logs its seed, and
// USHER_SEED repeats it: the same customers, keys and moments of killing by
// count, though never the same race.
package prove
