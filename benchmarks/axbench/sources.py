"""The files that AxBench's texts come from, in a folder or on the hub, with their checksums.

On the hub each cell of `pyvene/axbench-concept500` and `axbench-concept10` is a folder named after
model size and layer, with `train/data.parquet` and `test/data.parquet`; AxBench's own
`axbench/data/prepare_data.py` reads these paths, and takes the test file for its texts for latent
evaluation (concept detection). AlpacaEval is `alpaca_eval.json` in `tatsu-lab/alpaca_eval`. The
release's quadruples are said to be in `colored-dye/concept500_contrastive`, or with a hyphen; how
the files there are named is not documented, so both are looked for.

On disk files may lie side by side, or as in AxBench's and the release's checkouts, in folders named
after the cell, such as `concept500/aug_gpt_prod_2b_l20_v1/generate`.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.axbench.published import CELLS, Cell
from concept_das.data.axbench_file import AXBENCH_COLUMNS
from concept_das.data.reading import TEXT_COLUMNS
from concept_das.errors import InputError
from concept_das.runs.files import sha256_of

CONCEPT500 = "pyvene/axbench-concept500"
CONCEPT10 = "pyvene/axbench-concept10"
CONTRASTIVE = tuple(
    f"colored-dye/{name}"
    for name in ("concept500_contrastive", "concept500-contrastive", "axbench_contrastive")
)
"""The release's quadruples; the first of these that the hub has."""
ALPACA_EVAL = "tatsu-lab/alpaca_eval"

# Commits, so that the same name stays the same data; of others the newest is taken.
REVISIONS: dict[str, str] = {
    CONCEPT500: "ad8a5d60c4616b599c24dd6689f05f696ec610f3",
    CONCEPT10: "39ad4068c7f343dff6bcee939f36db70b77f5088",
    ALPACA_EVAL: "2edc6fad8be6b14ea7230aabfd08188da6b8b814",
}

INSTRUCTIONS = "alpaca_eval.json"

# AxBench's and the release's folders of a cell, from the cell's own up to a whole checkout.
_PARTS = ("generate", "inference")
_CHECKOUT = [f"{above}{part}/*.parquet" for above in ("", "**/*prod_*/") for part in _PARTS]

_CHECKSUMS = ("checksums.json", "SHA256SUMS")

_SHA256 = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """The place of the texts.

    Attributes:
        train: AxBench's training file; None if there are quadruples alone.
        instructions: AlpacaEval's.
        latent: AxBench's texts for concept detection, if there are any.
        contrastive: quadruples, if there are any.
        sha256: of each of these files, by its path in the folder; on the hub, by repository and
            path.
    """

    train: Path | None
    instructions: Path
    latent: Path | None
    contrastive: Path | None
    sha256: dict[str, str]


def find_sources(source: str, cell: Cell | None = None, usual: Cell | None = None) -> Sources:
    """The files of a folder, or of a cell of a data set on the hub.

    Args:
        source: a folder, AxBench's or the release's own among them; `hub`, which is
            `pyvene/axbench-concept500`; or `pyvene/axbench-concept10`.
        cell: on the hub, the one that is read; in a folder it leaves out the files that are named
            after another.
        usual: the cell where there are several and none is asked for.

    Raises:
        InputError: if a file is missing, more than one will do, one is not what its checksum says,
            or the hub does not give one.
    """
    if Path(source).is_dir():
        return _in_folder(Path(source), cell, usual)
    repository = CONCEPT500 if source == "hub" else source
    if repository not in (CONCEPT500, CONCEPT10):
        raise InputError(f"{source} is neither a folder nor one of {CONCEPT500} (hub), {CONCEPT10}")
    cell = cell or usual
    if cell is None:
        raise InputError(
            f"{repository} has several cells; choose one of {', '.join(CELLS)} with --cell"
        )
    return _on_hub(repository, cell)


def _cell_in(path: str) -> Cell | None:
    """The cell that a path names, however it is spelled."""
    spelled = re.sub(r"[^0-9a-z]+", "-", path.lower()).replace("-it-", "-")
    return next((cell for cell in CELLS if f"-{cell}-" in f"-{spelled}-"), None)


def _cell_of(file: Path) -> Cell | None:
    """The cell of a file on disk, by its name or, in a checkout, by its folder's."""
    folder = file.resolve().parent
    return _cell_in(file.name) or (_cell_in(folder.parent.name) if folder.name in _PARTS else None)


def _in_folder(folder: Path, cell: Cell | None, usual: Cell | None) -> Sources:
    files = sorted(folder.glob("*.parquet")) or sorted(
        {path for pattern in _CHECKOUT for path in folder.glob(pattern)}
    )
    cells = {path: _cell_of(path) for path in files}
    if cell is None and len(set(cells.values()) - {None}) > 1:
        cell = usual
    files = [path for path in files if cell is None or cells[path] in (None, cell)]
    columns = {path: _columns(path) for path in files}
    contrastive = [path for path in files if columns[path] >= set(TEXT_COLUMNS)]
    latent = [path for path in files if "latent_eval" in path.name and path not in contrastive]
    train = [path for path in files if "train" in path.name and path not in (*contrastive, *latent)]
    # A folder may hold other training files, of preferences for instance; a single one is taken
    # as meant, so that a column it lacks can be named.
    whole = [path for path in train if columns[path] >= set(AXBENCH_COLUMNS)]
    of = f" of cell {cell}" if cell else ""
    quadruples = (
        _one(folder, f"parquet file of quadruples{of}", contrastive) if contrastive else None
    )
    one_train = None
    if train or quadruples is None:
        one_train = _one(folder, f"AxBench training file (*train*.parquet){of}", whole or train)
    one_latent = _one(folder, f"file *latent_eval*.parquet{of}", latent) if latent else None
    sha256 = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in (one_train, one_latent, quadruples)
        if path is not None
    }
    name, instructions = _instructions(folder)
    sha256[name] = sha256_of(instructions)
    _verify(folder, sha256)
    return Sources(one_train, instructions, one_latent, quadruples, sha256)


def _instructions(folder: Path) -> tuple[str, Path]:
    """AlpacaEval's file and its name: in the folder, or the hub's, as the release brings none."""
    found = [*folder.glob(INSTRUCTIONS)] or sorted(folder.glob(f"**/data/{INSTRUCTIONS}"))
    if found:
        return found[0].relative_to(folder).as_posix(), found[0]
    try:
        path = _download(ALPACA_EVAL, INSTRUCTIONS)
    except InputError as error:
        raise InputError(f"{folder} has no {INSTRUCTIONS}; put one there ({error})") from error
    log.info("%s has no %s; the hub's is taken", folder, INSTRUCTIONS)
    return f"{ALPACA_EVAL}/{INSTRUCTIONS}", path


def _columns(path: Path) -> set[str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        return set(read_schema(path).names)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as .parquet: {error}") from error


def _one(folder: Path, what: str, paths: Sequence[Path]) -> Path:
    if not paths:
        raise InputError(f"{folder} has no {what}; put one there")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise InputError(
            f"{folder} has more than one {what}: {names}; name a cell, or leave one file there"
        )
    return paths[0]


def _verify(folder: Path, actual: Mapping[str, str]) -> None:
    """Compare with the checksums that the folder may bring along."""
    for name in _CHECKSUMS:
        path = folder / name
        if not path.exists():
            continue
        expected = _read_checksums(path)
        for file, digest in actual.items():
            if expected.get(file, digest) != digest:
                raise InputError(
                    f"{folder / file} is not the file that {name} names (SHA-256 {digest}, not "
                    f"{expected[file]}); get it again, or correct {name}"
                )


def _read_checksums(path: Path) -> dict[str, str]:
    """By file name: a json object, or lines as `sha256sum` writes them."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            pairs = dict(json.loads(text))
        else:
            lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
            pairs = {name.lstrip("*"): digest for digest, name in lines}
        entries = {name.removeprefix("./"): digest.lower() for name, digest in pairs.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as a list of checksums; delete it") from error
    for name, digest in entries.items():
        if not _SHA256.fullmatch(digest):
            raise InputError(f"{path} gives {digest!r} for {name}, which is not a SHA-256")
    return entries


def _on_hub(repository: str, cell: Cell) -> Sources:
    sha256: dict[str, str] = {}

    def get(name: str, path: str) -> Path:
        file = _download(name, path)
        sha256[f"{name}/{path}"] = sha256_of(file)
        return file

    folder = cell.replace("-", "/")
    contrastive = _contrastive_on_hub(cell) if repository == CONCEPT500 else None
    return Sources(
        train=get(repository, f"{folder}/train/data.parquet"),
        instructions=get(ALPACA_EVAL, INSTRUCTIONS),
        latent=get(repository, f"{folder}/test/data.parquet"),
        contrastive=get(*contrastive) if contrastive else None,
        sha256=sha256,
    )


def _download(repository: str, path: str) -> Path:
    from huggingface_hub import hf_hub_download

    revision = REVISIONS.get(repository)
    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset", revision=revision))
    except Exception as error:  # hub and network errors of many kinds
        raise InputError(_no_answer(repository, path, error)) from error


def _contrastive_on_hub(cell: Cell) -> tuple[str, str] | None:
    """Repository and path of the one parquet file that names the cell.

    Returns:
        None, with a warning, if the hub has none of the repositories or it is not clear which file.
    """
    from huggingface_hub import list_repo_files
    from huggingface_hub.errors import RepositoryNotFoundError

    for repository in CONTRASTIVE:
        try:
            files = list_repo_files(repository, repo_type="dataset")
        except RepositoryNotFoundError:
            continue
        except Exception as error:  # hub and network errors of many kinds
            raise InputError(_no_answer(repository, "the list of files", error)) from error
        of_cell = [path for path in files if path.endswith(".parquet") and _cell_in(path) == cell]
        if len(of_cell) == 1:
            log.info("quadruples: %s of %s", of_cell[0], repository)
            return repository, of_cell[0]
        found = (
            f"{repository} has {len(of_cell)} parquet files of cell {cell} where one was expected"
        )
        break
    else:
        found = f"the hub has none of {', '.join(CONTRASTIVE)}"
    log.warning(
        "%s, so the release's neutral responses are not used; to use them, put the file into a "
        "folder with the others",
        found,
    )
    return None


def _no_answer(repository: str, what: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"the hub does not give {what} of {repository} ({reason}); check connection and revision, "
        "or name a folder that holds the files"
    )
