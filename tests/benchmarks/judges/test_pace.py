from benchmarks.judges.client import Pace


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_requests_are_spaced_evenly() -> None:
    clock = Clock()
    pace = Pace(120, clock=clock, sleep=clock.sleep)
    starts = []
    for _ in range(4):
        pace.wait()
        starts.append(clock.now - 1000)
    assert starts == [0.0, 0.5, 1.0, 1.5]
    clock.now += 10  # a pause is not made up for
    pace.wait()
    pace.wait()
    assert clock.slept == [0.5, 0.5, 0.5, 0.5]


def test_without_a_limit_nobody_waits() -> None:
    clock = Clock()
    pace = Pace(None, clock=clock, sleep=clock.sleep)
    for _ in range(50):
        pace.wait()
    assert clock.slept == []
