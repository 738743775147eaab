// Package powercut is a disk in memory that loses power, fails and fills up. It is a
// file layer for SQLite. Its tests run usher on it: everything that usher acknowledged
// must be there when the power is back.
package powercut

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
)

// sector is the number of bytes that a power cut never tears apart.
const sector = 512

// Kind is a way to fail.
type Kind int

// The ways to fail. A full disk fails only changes that need more space, and only until
// Repair; the others may end by themselves.
const (
	WriteError Kind = iota + 1
	SyncError
	Full
	ReadError
)

func (k Kind) String() string {
	return [...]string{"none", "write error", "sync error", "disk full", "read error"}[k]
}

// Fault makes writes, syncs or reads fail.
type Fault struct {
	Kind Kind
	At   int64 // the first that fails, counted from Break; 1 is the next
	For  int64 // how many fail one after the other; 0 is all until Repair
}

// Disk is a disk with all its files, a vfs.VFS. Use New; the zero Disk does not work.
// Its methods are safe for concurrent use.
type Disk struct {
	// Lies makes every sync succeed and do nothing.
	Lies bool

	name string // under which SQLite knows it
	shm  string // file of the index of the write-ahead log, which no power cut survives

	mu     sync.Mutex
	rng    *rand.Rand
	seen   map[string]*file // the folder as the process sees it
	stored map[string]*file // the folder as the platter has it
	off    bool
	left   int64 // steps until the power goes; 0 is never
	fault  Fault
	writes int64 // since Break
	syncs  int64
	reads  int64
	failed int64 // steps that failed, since Break
	steps  int64 // since the power came
}

// file has its content twice: as the process sees it, and as it is on the platter.
// Changes that were not synced are in between.
type file struct {
	data     []byte
	platter  []byte
	unsynced []change

	shared            int // locks of the main file
	reserved, pending bool
}

// change is a write at an offset or, if b is nil, a new size.
type change struct {
	at int64
	b  []byte
}

var disks atomic.Int64

// New returns an empty disk. dir is a folder for temporary files. The seed decides what
// a power cut leaves of unsynced writes.
func New(dir string, seed uint64) *Disk {
	return start(dir, rand.New(rand.NewPCG(seed, 1)), map[string]*file{})
}

func start(dir string, rng *rand.Rand, files map[string]*file) *Disk {
	n := disks.Add(1)
	d := &Disk{name: fmt.Sprint("powercut-", n), shm: filepath.Join(dir, fmt.Sprint("shm-", n)), rng: rng, seen: files,
		stored: maps.Clone(files)}
	vfs.Register(d.name, d)
	return d
}

// Retire removes the disk from SQLite. All connections must be closed.
func (d *Disk) Retire() { vfs.Unregister(d.name) }

// Copy returns another disk with the same files, all synced.
func (d *Disk) Copy(dir string, seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := map[string]*file{}
	for name, f := range d.seen {
		files[name] = &file{data: clone(f.data), platter: clone(f.data)}
	}
	return start(dir, rand.New(rand.NewPCG(seed, 1)), files)
}

// CutAfter cuts the power at the n-th step from now: a write, a sync or another change.
// 1 is the next.
func (d *Disk) CutAfter(steps int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left = steps
}

// Cut cuts the power now.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
}

// Off reports whether the power is gone.
func (d *Disk) Off() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

// Steps returns how many steps were made since the power came on.
func (d *Disk) Steps() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.steps
}

// Break makes the disk fail from now on.
func (d *Disk) Break(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.writes, d.syncs, d.reads, d.failed = f, 0, 0, 0, 0
}

// Failed returns how many steps the fault failed.
func (d *Disk) Failed() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// Repair ends the fault and returns how many steps it failed.
func (d *Disk) Repair() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = Fault{}
	return d.failed
}

// PowerOn returns the disk after a power cut: everything that was synced, and of the
// other writes none, all or some, whole or torn.
func (d *Disk) PowerOn(dir string) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
	files := map[string]*file{}
	for name, f := range d.seen {
		if d.stored[name] == f || d.rng.IntN(2) == 0 { // a new name may be there or not
			files[name] = f
		}
	}
	for name, f := range d.stored {
		if d.seen[name] != f && files[name] == nil && d.rng.IntN(2) == 0 { // so may one that was removed
			files[name] = f
		}
	}
	for name, f := range files {
		b := d.survivor(f)
		files[name] = &file{data: b, platter: clone(b)}
	}
	return start(dir, d.rng, files)
}

func (d *Disk) survivor(f *file) []byte {
	b := clone(f.platter)
	how := d.rng.IntN(4)
	if how == 0 {
		return b
	}
	for _, c := range f.unsynced {
		fate := 0 // whole
		if how > 1 {
			fate = d.rng.IntN(3)
		}
		switch {
		case fate == 0:
			b = c.apply(b)
		case fate == 1 || c.b == nil: // lost
		default:
			b = d.torn(c, b)
		}
	}
	return b
}

// torn applies some sectors of a write: those up to one, or any.
func (d *Disk) torn(c change, b []byte) []byte {
	upTo, prefix := d.rng.Int64N(int64(len(c.b))+1), d.rng.IntN(2) == 0
	for from := int64(0); from < int64(len(c.b)); {
		until := min(int64(len(c.b)), (c.at+from)/sector*sector+sector-c.at)
		if prefix && from < upTo || !prefix && d.rng.IntN(2) == 0 {
			b = change{c.at + from, c.b[from:until]}.apply(b)
		}
		from = until
	}
	return b
}

func (c change) apply(b []byte) []byte {
	end := c.at + int64(len(c.b))
	if c.b == nil && end < int64(len(b)) {
		return b[:end]
	}
	if n := end - int64(len(b)); n > 0 {
		b = append(b, make([]byte, n)...)
	}
	copy(b[c.at:], c.b)
	return b
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// step counts one change of the disk; ok is false from the power cut on. The step at
// which the power is cut may still have reached the platter.
func (d *Disk) step() (ok bool) {
	if d.off {
		return false
	}
	d.steps++
	if d.left > 0 {
		if d.left--; d.left == 0 {
			d.off = true
		}
	}
	return true
}

// hits reports whether the nth write, sync or read since Break fails.
func (d *Disk) hits(k Kind, n int64) bool {
	f := d.fault
	hit := f.Kind == k && n >= f.At && (f.For == 0 || n < f.At+f.For)
	if hit {
		d.failed++
	}
	return hit
}

// change applies a change, which the process sees at once, or fails it.
func (d *Disk) change(f *file, c change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.step() {
		return sqlite3.IOERR_WRITE
	}
	d.writes++
	var err error
	switch grows := c.at+int64(len(c.b)) > int64(len(f.data)); {
	case d.hits(WriteError, d.writes):
		err = sqlite3.IOERR_WRITE
	case grows && d.hits(Full, d.writes):
		err = sqlite3.FULL
	}
	if err != nil {
		if c.b == nil || d.rng.IntN(2) == 0 {
			return err
		}
		c.b = c.b[:d.rng.IntN(len(c.b))] // some of it was written before it failed
		if len(c.b) == 0 {
			return err
		}
	}
	f.data = c.apply(f.data)
	f.unsynced = append(f.unsynced, change{c.at, clone0(c.b)})
	if d.off {
		return sqlite3.IOERR_WRITE
	}
	return err
}

// clone0 clones b and keeps nil, which means a new size.
func clone0(b []byte) []byte {
	if b == nil {
		return nil
	}
	return clone(b)
}

func (d *Disk) sync(f *file, folder *bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.step() || d.off {
		return sqlite3.IOERR_FSYNC
	}
	d.syncs++
	switch {
	case d.hits(SyncError, d.syncs):
		// As Linux does: what could not be written is forgotten, and a later
		// sync is a success without it.
		if d.rng.IntN(2) == 0 {
			f.platter, f.unsynced = d.survivor(f), nil
		}
		return sqlite3.IOERR_FSYNC
	case d.Lies:
		return nil
	}
	for _, c := range f.unsynced {
		f.platter = c.apply(f.platter)
	}
	f.unsynced = nil
	if *folder {
		d.stored, *folder = maps.Clone(d.seen), false
	}
	return nil
}

// Open implements vfs.VFS.
func (d *Disk) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if name == "" { // SQLite's own scratch space
		return &handle{disk: &Disk{rng: d.rng}, file: &file{}}, flags, nil
	}
	if d.off {
		return nil, flags, sqlite3.CANTOPEN
	}
	h := &handle{disk: d, file: d.seen[name]}
	if h.file == nil {
		if flags&vfs.OPEN_CREATE == 0 {
			return nil, flags, sqlite3.CANTOPEN
		}
		h.file = &file{}
		d.seen[name] = h.file
		h.folder = flags&(vfs.OPEN_MAIN_JOURNAL|vfs.OPEN_SUPER_JOURNAL|vfs.OPEN_WAL) != 0
	}
	if flags&vfs.OPEN_MAIN_DB != 0 {
		h.shm = vfs.NewSharedMemory(d.shm, flags)
	}
	return h, flags, nil
}

// Delete implements vfs.VFS.
func (d *Disk) Delete(name string, syncDir bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen[name] == nil {
		return sqlite3.IOERR_DELETE_NOENT
	}
	if !d.step() {
		return sqlite3.IOERR_DELETE
	}
	delete(d.seen, name)
	if d.off {
		return sqlite3.IOERR_DELETE
	}
	if syncDir && !d.Lies {
		delete(d.stored, name)
	}
	return nil
}

// Access implements vfs.VFS. An empty file counts as none, as in SQLite's own layer.
func (d *Disk) Access(name string, _ vfs.AccessFlag) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off {
		return false, sqlite3.IOERR_ACCESS
	}
	f := d.seen[name]
	return f != nil && len(f.data) > 0, nil
}

// FullPathname implements vfs.VFS.
func (d *Disk) FullPathname(name string) (string, error) { return name, nil }

// handle is one opening of a file.
type handle struct {
	disk   *Disk
	file   *file
	folder bool // the first sync syncs the folder too, as SQLite's own layer does for a new journal
	lock   vfs.LockLevel
	shm    vfs.SharedMemory
}

var (
	_ vfs.FileSharedMemory = &handle{}
	_ vfs.FileLockState    = &handle{}
)

func (h *handle) Close() error {
	if h.shm != nil {
		h.shm.Close()
	}
	return h.Unlock(vfs.LOCK_NONE)
}

func (h *handle) ReadAt(b []byte, at int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	h.disk.reads++
	if h.disk.off || h.disk.hits(ReadError, h.disk.reads) {
		return 0, sqlite3.IOERR_READ
	}
	if at >= int64(len(h.file.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.file.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(b []byte, at int64) (int, error) {
	if err := h.disk.change(h.file, change{at, b}); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (h *handle) Truncate(size int64) error { return h.disk.change(h.file, change{size, nil}) }

func (h *handle) Sync(vfs.SyncFlag) error { return h.disk.sync(h.file, &h.folder) }

func (h *handle) Size() (int64, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.disk.off {
		return 0, sqlite3.IOERR_FSTAT
	}
	return int64(len(h.file.data)), nil
}

func (h *handle) SharedMemory() vfs.SharedMemory { return h.shm }
func (h *handle) LockState() vfs.LockLevel       { return h.lock }
func (h *handle) SectorSize() int                { return 4096 }

// DeviceCharacteristics promises what SQLite's own layer does on Linux: a torn
// write harms nothing beside it.
func (h *handle) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_POWERSAFE_OVERWRITE
}

// Lock implements vfs.File, between the connections of one process.
func (h *handle) Lock(lock vfs.LockLevel) error {
	if h.lock >= lock {
		return nil
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	f := h.file
	switch lock {
	case vfs.LOCK_SHARED:
		if f.pending {
			return sqlite3.BUSY
		}
		f.shared++
	case vfs.LOCK_RESERVED:
		if f.reserved {
			return sqlite3.BUSY
		}
		f.reserved = true
	case vfs.LOCK_EXCLUSIVE:
		if h.lock < vfs.LOCK_PENDING {
			if f.pending {
				return sqlite3.BUSY
			}
			f.pending, h.lock = true, vfs.LOCK_PENDING
		}
		if f.shared > 1 {
			return sqlite3.BUSY
		}
	}
	h.lock = lock
	return nil
}

// Unlock implements vfs.File.
func (h *handle) Unlock(lock vfs.LockLevel) error {
	if h.lock <= lock {
		return nil
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	f := h.file
	if h.lock >= vfs.LOCK_RESERVED {
		f.reserved = false
	}
	if h.lock >= vfs.LOCK_PENDING {
		f.pending = false
	}
	if lock < vfs.LOCK_SHARED {
		f.shared--
	}
	h.lock = lock
	return nil
}

// CheckReservedLock implements vfs.File.
func (h *handle) CheckReservedLock() (bool, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return h.file.reserved, nil
}
