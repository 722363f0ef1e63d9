"""One process at a time on a folder or a file; a second one is told who is at work."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from concept_das.errors import InputError

log = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path, name: str = "", patience: float = 0.0) -> Iterator[None]:
    """Work on a folder, or on the file of that name in it, with no other process doing so.

    The operating system forgets the lock of a process that has died, so that the next one takes
    its place. On a file system without locks nobody is kept out.

    Args:
        patience: seconds to wait for the other to end.

    Raises:
        InputError: if another process is at work, naming it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name or 'run'}.lock"
    end = time.monotonic() + patience
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(file, 1000, 0).decode(errors="replace") or "another process"
            os.close(file)
            if time.monotonic() < end:
                time.sleep(0.2)
                continue
            raise InputError(
                f"{folder / name} is being worked on by {holder}; wait for it, end it, or choose "
                "another place"
            ) from error
        except OSError as error:
            log.warning("%s cannot be locked (%s); start no second run on it", path, error)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                break
        os.close(file)  # the process before has removed this one in the meantime
    try:
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        with suppress(OSError):  # a full disk; whatever is to be written will say so
            os.ftruncate(file, 0)
            holder = f"process {os.getpid()} on {socket.gethostname()} since {since}"
            os.pwrite(file, holder.encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
        if made:
            with suppress(OSError):  # there is something in it
                folder.rmdir()
