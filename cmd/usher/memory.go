package main

import (
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

// tuneCollector sets the garbage collector's target, unless the environment says it
// (GOGC, GOMEMLIMIT). It sets nothing where the memory of the machine is not known.
func tuneCollector() {
	total := memory("/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
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
