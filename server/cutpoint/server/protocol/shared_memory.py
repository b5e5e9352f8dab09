"""Regions of POSIX shared memory that clients on the same machine put tensors in.

They are read and written by pread and pwrite and never mapped. A mapped page is gone when its owner makes the region shorter,
and touching it then is SIGBUS, which no check beforehand prevents: it kills the process. pread only comes back short. It also
means that a tensor cannot change between being checked and being scored. The price is one copy.
"""

import fcntl
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from weakref import finalize

import numpy as np
from cutpoint.errors import BadRequest, Overloaded
from cutpoint.oip import inference_pb2 as oip

# POSIX semaphores are files beside the regions; writing into one would stop whoever waits for it.
_RESERVED = "sem."
_LONGEST = 255


class _Region:
    """A registered region. Its descriptor is closed when nobody holds the region any more: a request under way does."""

    def __init__(self, name: str, key: str, offset: int, byte_size: int, descriptor: int) -> None:
        self.name, self.key, self.offset, self.byte_size, self.descriptor = name, key, offset, byte_size, descriptor
        finalize(self, os.close, descriptor)
        self._owned = self._locked()

    def _locked(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: workers may look at the same time
        except OSError:
            return True
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return False

    @property
    def abandoned(self) -> bool:
        """Whether its owner, who held a lock (flock) on it when it was registered, does no longer: killed, say."""
        return self._owned and not self._locked()

    @property
    def present(self) -> int:
        """How many of its bytes are there now; fewer than `byte_size` where its owner has made the object shorter."""
        return min(max(os.fstat(self.descriptor).st_size - self.offset, 0), self.byte_size)

    def shorter(self) -> BadRequest:
        """What to raise when bytes are not there any more."""
        of = f"shared memory region '{self.name}'"
        return BadRequest.of(of, f"{self.present} bytes long now", f"the {self.byte_size} registered")


@dataclass(frozen=True)
class Slot:
    """A place in a region; the region stays open as long as somebody holds one, even where it is unregistered meanwhile."""

    region: _Region
    offset: int
    byte_size: int

    def read(self) -> memoryview:
        """A copy of its bytes, read-only; BadRequest where the region's owner has made it shorter."""
        # numpy's memory is not filled with zeros first, as a bytearray's is.
        view = np.empty(self.byte_size, np.uint8).data
        done = 0
        while done < self.byte_size:
            count = os.preadv(self.region.descriptor, [view[done:]], self.region.offset + self.offset + done)
            if not count:
                raise self.region.shorter()
            done += count
        return view.toreadonly()

    def write(self, data: bytes | memoryview) -> None:
        """Copy `data`, bytes, to its start.

        Raises:
            BadRequest: they are more than it takes, the region's owner has made it shorter, or there is no memory for them.
        """
        of = f"region '{self.region.name}'"
        if len(data) > self.byte_size:
            raise BadRequest.of(f"shared_memory_byte_size in {of}", f"{self.byte_size} bytes", f"at least {len(data)}")
        if self.region.present < self.region.byte_size:  # pwrite would make it longer again
            raise self.region.shorter()
        view = memoryview(data)
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self.region.descriptor, view[done:], self.region.offset + self.offset + done)
            except OSError as error:
                raise BadRequest.of(f"shared memory {of}", f"not writable ({error.strerror})", "room to write into") from None


class SharedMemory:
    """The regions that clients have registered, by name; safe from any thread."""

    def __init__(self, folder: Path = Path("/dev/shm"), *, max_regions: int = 256, max_read_bytes: int = 64 << 20) -> None:
        """No regions yet.

        Args:
            folder: where the system keeps its shared memory objects.
            max_regions: most at a time; each costs a file descriptor.
            max_read_bytes: most that one tensor may take of the server's memory. A region can be of any size without anybody
                having paid for it, so its size bounds nothing.
        """
        self._folder, self._max_regions, self._max_read_bytes = folder, max_regions, max_read_bytes
        self._regions: dict[str, _Region] = {}
        self._lock = Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Take in `byte_size` bytes from `offset` on of the object `key`, under `name`.

        Those before it are forgotten whose owners held a lock (flock, exclusive) on them and have let it go.

        Args:
            name: 1 to 255 printable characters, not in use.
            key: the name that the object was made with by shm_open, with or without its leading slash.
            offset: in bytes, of any alignment.
            byte_size: 1 or more, all of them there.

        Raises:
            BadRequest: one of them is not so, there is no such object, or it is no plain file.
            Overloaded: as many are registered as may be.
        """
        if not 1 <= len(name) <= _LONGEST or not name.isprintable():
            raise BadRequest.of("name of the shared memory region", repr(name), f"1 to {_LONGEST} printable characters")
        of = f"of shared memory region '{name}'"
        file = key.removeprefix("/")
        if not file.isprintable() or "/" in file or file in ("", ".", "..") or len(file.encode()) > _LONGEST:
            raise BadRequest.of(f"key {of}", repr(key), "'/' and a name without another '/', as shm_open takes it")
        if file.startswith(_RESERVED):
            raise BadRequest.of(f"key {of}", repr(key), f"none that begins with '{_RESERVED}': semaphores do")
        if offset < 0:
            raise BadRequest.of(f"offset {of}", str(offset), "0 or more bytes")
        if byte_size < 1:
            raise BadRequest.of(f"byte_size {of}", str(byte_size), "1 or more bytes")
        region = _Region(name, key, offset, byte_size, self._open(file, f"key {of}", key))
        if (present := region.present) < byte_size:
            raise BadRequest.of(f"offset + byte_size {of}", f"{offset} + {byte_size}", f"{present} bytes from there at most")
        with self._lock:
            self._regions = {known: each for known, each in self._regions.items() if not each.abandoned}
            if name in self._regions:
                raise BadRequest.of("name of the shared memory region", repr(name), "one that is not registered yet")
            if (count := len(self._regions)) >= self._max_regions:
                raise Overloaded(f"shared memory regions is {count}; expected below {self._max_regions} to register one more")
            self._regions[name] = region

    def unregister(self, name: str = "") -> None:
        """Forget the region `name`, or all of them where it is empty. One that is not registered is forgotten already."""
        with self._lock:
            if name:
                self._regions.pop(name, None)
            else:
                self._regions.clear()

    def status(self, name: str = "") -> oip.SystemSharedMemoryStatusResponse:
        """The region `name`, or all of them where it is empty; BadRequest where it is not registered."""
        if name:
            regions = {name: self._get(name)}
        else:
            with self._lock:
                regions = dict(self._regions)
        answer = oip.SystemSharedMemoryStatusResponse()
        for each, region in regions.items():
            status = answer.regions[each]
            status.name, status.key, status.offset, status.byte_size = each, region.key, region.offset, region.byte_size
        return answer

    def slot(self, name: str, offset: int, byte_size: int) -> Slot:
        """The place of `byte_size` bytes from `offset` on in the region `name`.

        Raises:
            BadRequest: no such region, or not within it.
        """
        region = self._get(name)
        if offset < 0 or byte_size < 0 or offset + byte_size > region.byte_size:
            raise BadRequest.of(
                f"shared_memory_offset + shared_memory_byte_size in region '{name}'",
                f"{offset} + {byte_size}",
                f"at most its {region.byte_size} bytes",
            )
        return Slot(region, offset, byte_size)

    def read(self, name: str, offset: int, byte_size: int) -> memoryview:
        """A copy of `byte_size` bytes from `offset` on in the region `name`, read-only.

        Raises:
            BadRequest: no such region, not within it, more than one tensor may have, or its owner has made it shorter since.
        """
        return self.readable(name, offset, byte_size).read()

    def readable(self, name: str, offset: int, byte_size: int) -> Slot:
        """The place that `read` would read; BadRequest as it raises it, but for a region that is made shorter."""
        slot = self.slot(name, offset, byte_size)
        if byte_size > self._max_read_bytes:
            size = f"shared_memory_byte_size in region '{name}'"
            raise BadRequest.of(size, f"{byte_size} bytes", f"at most {self._max_read_bytes}")
        return slot

    def write(self, name: str, offset: int, data: bytes | memoryview) -> None:
        """Copy `data`, bytes, into the region `name` from `offset` on; BadRequest as `slot` and `Slot.write` raise it."""
        self.slot(name, offset, len(data)).write(data)

    def _open(self, file: str, what: str, key: str) -> int:
        try:
            # No link is followed, so the object is in this folder; a named pipe is not waited for.
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._folder / file, flags)
        except OSError as error:
            raise BadRequest.of(
                what, f"{key!r} ({error.strerror})", "a shared memory object that the server may read and write"
            ) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BadRequest.of(what, f"{key!r} (no plain file)", "a shared memory object")
        return descriptor

    def _get(self, name: str) -> _Region:
        with self._lock:
            region = self._regions.get(name)
        if region is None:
            raise BadRequest.of("shared memory region", f"'{name}', which is not registered", "the name of a registered one")
        return region
