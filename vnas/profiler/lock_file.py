"""The file behind a device's lock: opened so that users can share it, two bytes to lock, and a line on who holds it."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = "/tmp/vnas-locks"
"""Not where TMPDIR points: that may be another folder for each user."""

TURNSTILE, DEVICE = 1 << 30, (1 << 30) + 1
"""The bytes that are locked. They lie far behind the text and are never written."""

_TEXT_BYTES = 512
_WORDS = 160


@dataclass(frozen=True)
class Holder:
    """Who took the lock last.

    Attributes:
        pid: its process.
        what: its command line, shortened.
        since: seconds since the epoch.
        exclusive: to measure; False to train.
    """

    pid: int
    what: str
    since: float
    exclusive: bool


def place(key: str) -> Path:
    """The path of a key's file."""
    return Path(os.environ.get("VNAS_LOCK_DIR") or FOLDER) / (re.sub(r"[^A-Za-z0-9._-]", "_", key) + ".lock")


def open_file(path: Path) -> int | str:
    """A descriptor of the file, made together with its folder if need be; the reason where there can be none.

    Links are not followed, neither in place of the folder nor of the file: whoever may write to ``/tmp`` could
    have put them there.
    """
    if sys.platform == "win32":
        return "this system has no POSIX record locks"
    try:
        _make_folder(path.parent)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            descriptor = _open_or_create(path.name, folder)
        finally:
            os.close(folder)
        try:
            _check(descriptor)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        return (
            f"{path} cannot be used ({error.strerror}); set VNAS_LOCK_DIR to a folder on a local disk that all users "
            "of the device may write to"
        )
    return descriptor


def try_lock(descriptor: int, byte: int, exclusive: bool) -> bool:
    """Lock a byte, alone or shared, if it is free now; a lock that this process has on it is changed."""
    import fcntl

    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def release(descriptor: int, byte: int) -> None:
    """Unlock a byte."""
    import fcntl

    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, byte)


def write(descriptor: int, exclusive: bool) -> bytes:
    """Write down that this process holds the lock; returns what was written."""
    what = _printable(" ".join([Path(sys.executable).name, *sys.orig_argv[1:]]))
    holder = {"pid": os.getpid(), "exclusive": exclusive, "since": time.time(), "what": what}
    text = json.dumps(holder).encode().ljust(_TEXT_BYTES - 1) + b"\n"
    os.pwrite(descriptor, text, 0)
    return text


def wipe(descriptor: int, text: bytes) -> None:
    """Take back what was written, unless another holder has written since."""
    if os.pread(descriptor, len(text), 0) == text:
        os.pwrite(descriptor, b" " * (len(text) - 1), 0)


def read(descriptor: int) -> Holder | None:
    """Who took the lock last and lives; anybody may have written there, so nothing is taken on trust."""
    try:
        found = json.loads(os.pread(descriptor, _TEXT_BYTES, 0))
        holder = Holder(
            int(found["pid"]), _printable(str(found["what"])), float(found["since"]), bool(found["exclusive"])
        )
        time.localtime(holder.since)
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return None
    return holder if holder.pid > 0 and _alive(holder.pid) else None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    folder.chmod(0o1777)


def _open_or_create(name: str, folder: int) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    while True:
        # Never with O_CREAT on a file that is there: fs.protected_regular forbids that for another user's.
        try:
            return os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            pass
        try:
            descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        except FileExistsError:
            continue
        os.fchmod(descriptor, 0o666)  # whatever the umask
        return descriptor


def _check(descriptor: int) -> None:
    """A file of this name that is no plain file, or has another name too, may be somebody's trap."""
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
        raise OSError(errno.EPERM, "it is not a plain file with one name")
    if try_lock(descriptor, DEVICE + 1, exclusive=False):  # a file system without locks says so here
        release(descriptor, DEVICE + 1)


def _printable(text: str) -> str:
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)[:_WORDS]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
