package main

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// The garbage collector runs by default whenever the heap has doubled. The server's
// memory is mostly a cache of a bounded number of customers, and requests leave much
// garbage: letting the heap grow to five times what is in use gains 5 to 10 % of all
// answers. The limit keeps that from taking the memory of the whole machine.
const (
	collectAt  = 400 // per cent of the live heap
	memoryPart = 70  // per cent of the machine's or the container's memory
)

// machineMemory returns the bytes that this process may use; 0 is unknown.
func machineMemory() int64 {
	return memory("/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
}

// cacheBytes returns --cache-bytes, by default a quarter of the memory; 0 if that is
// unknown.
func (c *serveCmd) cacheBytes() int64 {
	if c.CacheBytes != 0 {
		return int64(c.CacheBytes)
	}
	return machineMemory() / 4
}

// byteSize is a number of bytes, written with or without a unit: 1048576, 512MiB, 2GB.
type byteSize int64

// minCache is the least cache that holds the customers of a few requests at once.
const minCache = 1 << 20

// UnmarshalText reads a size of at least 1 MiB.
func (b *byteSize) UnmarshalText(text []byte) error {
	s, unit := string(text), int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}} {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit || n*unit < minCache {
		return fmt.Errorf("must be a number of bytes of at least 1MiB, such as 512MiB or 2GiB, got %q", text)
	}
	*b = byteSize(n * unit)
	return nil
}

// tuneCollector sets the garbage collector's target, unless the environment says it
// (GOGC, GOMEMLIMIT). It sets nothing where the memory of the machine is not known.
func tuneCollector() {
	total := machineMemory()
	if total == 0 || os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(collectAt)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(total / 100 * memoryPart)
	}
}

// memory returns the bytes that this process may use: the least that one of the files
// says. The first has the form of Linux's meminfo, the others hold a number of bytes, or
// "max". 0 is unknown.
func memory(meminfo string, limits ...string) (least int64) {
	note := func(n int64, err error) {
		if err == nil && n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	text, _ := os.ReadFile(meminfo)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			note(n*1024, err)
		}
	}
	for _, name := range limits {
		text, _ := os.ReadFile(name)
		note(strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64))
	}
	return least
}
