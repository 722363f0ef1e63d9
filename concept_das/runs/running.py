"""Run the jobs of a benchmark: in this process, or in several on one machine or many, by Ray.

The process that the user started, the driver, holds the folder's lock and starts each job as soon
as the jobs that it needs are done. With workers it does no job itself. Each worker is an actor of
Ray that is told the driver's command line, makes the same jobs from it, and keeps the model that
its first job loads. What jobs make are files, so nothing but names and hashes travels between the
processes. The job of a worker that was lost is started again in another, from its row log.
"""

import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from concept_das.errors import InputError, OutsideError, UnfinishedError
from concept_das.runs.alone import alone_in
from concept_das.runs.stages import Files, Jobs, Piece, Slot, Stage, names_of

# A job that took so many workers with it is not given to another.
_LOSSES = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerOptions:
    """Processes that share the work, by Ray.

    Args:
        workers: processes that do the work, each with a model of its own. If not given, the command
            itself does it, without Ray; with --cluster, as many as its GPUs are enough for, or one
            on each machine if it has none.
        cluster: address of a running Ray cluster, or auto for the one that this machine is part of.
            Its machines must see the same folders.
        gpus_per_worker: GPUs of a worker, if there are any: more for a model that --device-map
            spreads, 0.5 for two workers on one, 0 for none.
    """

    workers: int | None = None
    cluster: str | None = None
    gpus_per_worker: float = 1.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers is {self.workers}; it must be at least 1")
        gpus = self.gpus_per_worker
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise InputError(f"--gpus-per-worker is {gpus}; give a whole number, or less than 1")

    def of(self, module: str, argv: Sequence[str]) -> "Workers | None":
        """The workers that are asked for; None for this process alone.

        Args:
            module: whose `main.plan(argv)` makes the jobs.
        """
        if self.workers is None and self.cluster is None:
            return None
        return Workers(self, module, argv)


def run_stages(
    stages: Sequence[Stage],
    pieces: Sequence[Piece],
    folder: Path,
    only: Collection[str] | None = None,
    workers: "Workers | None" = None,
) -> None:
    """Run every job that is not done, in the stages' order as far as their needs are done.

    Args:
        stages: in an order in which each comes after those it needs.
        folder: of the whole benchmark.
        only: names of the stages to run; all if None.
        workers: who does the jobs; this process if None.

    Raises:
        InputError: if names are unusable, if a stage needs work that is missing or of other
            inputs, or if another run is at work here.
        OutsideError: if a job loses one worker after the other.
        UnfinishedError: if a job had to be left open; all that does not need it is done.
    """
    jobs = Jobs(stages, pieces, folder, only)
    place = {slot: number for number, slot in enumerate(jobs.chosen())}
    order = TopologicalSorter({slot: jobs.before(slot) for slot in place})
    order.prepare()
    todo: list[Slot] = []
    left_open: dict[Slot, UnfinishedError] = {}
    with (
        alone_in(folder),
        workers or nullcontext(),
        tqdm(total=len(place), unit="job", disable=workers is None) as bar,
    ):
        while True:
            while slots := order.get_ready():
                jobs.check_needs(slots)
                done = [slot for slot in slots if jobs.files(slot) is not None]
                order.done(*done)
                bar.update(len(done))
                todo = sorted({*todo, *slots} - {*done}, key=place.__getitem__)
            if workers is None:
                if not todo:
                    break
                slot = todo.pop(0)
                result = _done_here(jobs, slot)
            else:
                while todo and workers.free:
                    slot = todo.pop(0)
                    workers.start(slot, jobs.fingerprint(slot))
                if not workers.at_work:
                    break
                bar.set_description_str(names_of(workers.at_work))
                slot, result = workers.wait()
            if isinstance(result, UnfinishedError):
                log.warning("%s is left open: %s", names_of([slot]), result)
                left_open[slot] = result
            else:
                jobs.note(slot, result)
                order.done(slot)
                bar.update()
    if left_open:
        first = next(iter(left_open.values()))
        raise UnfinishedError(f"{names_of(left_open)} is left open: {first}") from first


def _done_here(jobs: Jobs, slot: Slot) -> Files | UnfinishedError:
    """Do a job in this process; its files, or why it is left open."""
    log.info("%s", names_of([slot]))
    try:
        return jobs.run(slot)
    except UnfinishedError as error:
        return error


class Workers:
    """Processes that do jobs, as actors of Ray; they start with the first job.

    Attributes:
        at_work: the jobs that are started and have not ended.
    """

    def __init__(self, options: WorkerOptions, module: str, argv: Sequence[str]) -> None:
        self.at_work: dict[Slot, str | None] = {}
        self._options = options
        self._line = (module, tuple(argv), os.getcwd())
        self._ray: Any = None
        self._count = 1  # until it is known
        self._waiting: list[Slot] = []
        self._idle: list[Any] = []
        # What the actors have been asked: the actor, and its job, None while it gets ready.
        self._asked: dict[Any, tuple[Any, Slot | None]] = {}
        self._losses = Counter[Slot | None]()

    @property
    def free(self) -> bool:
        """True if there is a worker for one more job."""
        return len(self.at_work) < self._count

    def start(self, slot: Slot, fingerprint: str | None) -> None:
        """Have a job done by the next worker that has nothing to do."""
        if self._ray is None:
            self._begin()
        self.at_work[slot] = fingerprint
        self._waiting.append(slot)
        self._hand_out()

    def wait(self) -> tuple[Slot, Files | UnfinishedError]:
        """Wait for a job to end; its files, or why it is left open.

        Raises:
            OutsideError: if a job loses one worker after the other.
            Exception: that a job has raised.
        """
        from ray.exceptions import RayError, RayTaskError

        while True:
            (reference,), _ = self._ray.wait(list(self._asked), num_returns=1)
            actor, slot = self._asked.pop(reference)
            try:
                result = self._ray.get(reference)
            except RayTaskError as error:
                if not isinstance(error.cause, UnfinishedError):
                    raise (error.cause or error) from error
                result = error.cause
            except RayError as error:
                self._replace(actor, slot, error)
                continue
            self._idle.append(actor)
            self._hand_out()
            if slot is not None:
                del self.at_work[slot]
                return slot, result

    def _begin(self) -> None:
        self._ray = _ray_at(self._options)
        self._count, resources = _share(self._ray.nodes(), self._options)
        # Bars of several processes would overwrite each other; the driver has one.
        environment = {"env_vars": {"TQDM_DISABLE": "1"}}
        self._actor = self._ray.remote(Worker).options(
            **resources, scheduling_strategy="SPREAD", runtime_env=environment
        )
        for _ in range(self._count):
            self._hire()

    def _hire(self) -> None:
        actor = self._actor.remote(*self._line)
        self._asked[actor.get_ready.remote()] = (actor, None)

    def _hand_out(self) -> None:
        while self._idle and self._waiting:
            actor, slot = self._idle.pop(), self._waiting.pop(0)
            self._asked[actor.do.remote(slot, self.at_work[slot])] = (actor, slot)

    def _replace(self, actor: Any, slot: Slot | None, error: Exception) -> None:
        """Hire a worker for one that was lost; its job is given to the next that is free."""
        self._ray.kill(actor)  # it may be alive and out of reach
        self._losses[slot] += 1
        what = "the start of a worker" if slot is None else names_of([slot])
        reason = str(error).splitlines()[0].rstrip(".: ")
        if self._losses[slot] == _LOSSES:
            raise OutsideError(
                f"{what} has failed {_LOSSES} times because its process was killed, ran out of "
                f"memory or lost its machine ({reason}); give it more memory, or fewer --workers, "
                "and run the command again, which goes on from here"
            )
        log.warning("%s has lost its process (%s); another goes on with it", what, reason)
        if slot is not None:
            self._waiting.insert(0, slot)
        self._hire()
        self._hand_out()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._ray is None:
            return
        if kind is None and self._idle:
            finished = [actor.finish.remote() for actor in self._idle]
            self._ray.wait(finished, num_returns=len(finished), timeout=60.0)
        self._ray.shutdown()


class Worker:
    """A process that does jobs of a benchmark.

    Args:
        module: whose `main.plan(argv)` makes the jobs.
        folder: in which the command was given.
    """

    def __init__(self, module: str, argv: Sequence[str], folder: str) -> None:
        self._module, self._argv, self._folder = module, argv, folder

    def get_ready(self) -> None:
        """Make the jobs."""
        os.chdir(self._folder)
        self._plan = import_module(self._module).main.plan(self._argv)
        self._jobs: Jobs = self._plan.jobs()

    def do(self, slot: Slot, fingerprint: str) -> Files:
        """Do a job.

        Raises:
            InputError: if the job is not here what it is to the driver.
        """
        if self._jobs.fingerprint(slot) != fingerprint:
            raise InputError(
                f"{names_of([slot])} cannot be done on {socket.gethostname()}, which sees other "
                "files or settings than the machine of the command; give every machine the same "
                "model, libraries and checkout, and put --out on a disk that all of them share"
            )
        return self._jobs.run(slot)

    def finish(self) -> None:
        """End what was begun besides files."""
        self._plan.tracker.finish()


def _ray_at(options: WorkerOptions) -> Any:
    """Ray, connected to the cluster or started here."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # losses of two epochs are no repetition
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "several workers need Ray; install it with pip install 'concept-das[ray]'"
        ) from error
    if options.cluster is None:
        own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        cpus = max(own or 1, options.workers or 1)
        ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING)
        return ray
    try:
        ray.init(options.cluster, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(
            f"there is no Ray cluster at {options.cluster!r} ({reason}); start one with ray start "
            "--head, or leave --cluster away to work on this machine"
        ) from error
    return ray


def _share(
    nodes: Sequence[dict[str, Any]], options: WorkerOptions
) -> tuple[int, dict[str, int | float]]:
    """The number of workers, and the CPUs and GPUs that each asks Ray for.

    Ray has a worker's libraries use as many threads as it has CPUs, unless OMP_NUM_THREADS is set.

    Args:
        nodes: as `ray.nodes` describes the machines.

    Raises:
        InputError: if there are not enough of either.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = options.gpus_per_worker if any(one.get("GPU") for one in machines) else 0.0
    machines = [one for one in machines if one.get("CPU") and one.get("GPU", 0.0) >= gpus]
    rooms = [int(min(one["CPU"], one["GPU"] / gpus if gpus else one["CPU"])) for one in machines]
    count = options.workers or (sum(rooms) if gpus else len(machines))
    if not 0 < count <= sum(rooms):
        raise InputError(
            f"Ray has CPUs and GPUs for {sum(rooms)} workers, not for {count}; give fewer "
            "--workers, or other --gpus-per-worker"
        )
    # Ray fills machines with GPUs, and spreads what needs none.
    most = rooms if gpus else [math.ceil(count / len(machines))] * len(machines)
    cpus = min(int(one["CPU"]) // number for one, number in zip(machines, most, strict=True))
    return count, {"num_cpus": max(1, cpus), "num_gpus": gpus}
