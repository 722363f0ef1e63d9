"""A limit on requests per minute."""

import threading
import time
from collections.abc import Callable


class Pace:
    """Lets callers through one after another, evenly spaced, whichever thread they are in.

    Args:
        per_minute: None for no limit.
        clock: seconds, never going back.
        sleep: waits for seconds.
    """

    def __init__(
        self,
        per_minute: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._spacing = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._spacing
        if turn > now:
            self._sleep(turn - now)
