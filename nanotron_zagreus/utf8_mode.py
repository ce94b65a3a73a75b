"""Have texts and file names in UTF-8 whatever the system's locale says, as Python will from 3.15 on (PEP 686)."""

from __future__ import annotations

import locale
import os
import sys


def restart_in_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode where the locale has another encoding; its children inherit it.

    In an old locale a name such as açúcar could be neither opened nor printed.
    """
    if sys.flags.utf8_mode or locale.getencoding().lower() in ("utf-8", "utf8"):
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
