"""Say what the operating system refused, and what to do about it, where Python gives an error number and a path."""

from __future__ import annotations

import errno
import os

_USE_ANOTHER = "use a path that this user may read and write, or change its permissions or those of its folder"
_MAKE_ROOM = "free space there, and run the same command again"
_WRONG_KIND = "it, or a folder on the way to it, is a file where a folder is expected; move that, or use another path"
_REMEDIES = {
    errno.EACCES: _USE_ANOTHER,
    errno.EPERM: _USE_ANOTHER,
    errno.EROFS: _USE_ANOTHER,
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.ENOTDIR: _WRONG_KIND,
    errno.EEXIST: "something of that name is in the way; move it, or use another path",
    errno.ENOTEMPTY: "something of that name is in the way; move it, or use another path",
    errno.EISDIR: "a file is expected there, not a folder; use another path",
    errno.ENOENT: "correct the path, or make what is missing",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EMFILE: "allow more open files (`ulimit -n`), and run the same command again",
}
"""What to do about what the system refuses, by its error number."""


def describe(error: OSError) -> str:
    """Return the path, what the system said of it, and what to do; the error's own text where it names no path."""
    if not isinstance(error.filename, str | bytes):
        return str(error)
    places = " to ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
    remedy = _REMEDIES.get(error.errno or 0, "look after the path and its disk, and run the same command again")
    return f"{places}: {error.strerror}; {remedy}"
