"""The verbs of the command line as functions of the same names.

They return values and print only progress, on stderr and only if asked to. `import_pickle` is `import`. Arguments have
the names of the options (`--from` is `from_run`, KEY=VALUE words are `overrides`), and lists may be written as on the
command line: `metrics="fid,kid"`, `seeds="0-99"`. A list may be any iterable, a number may be a numpy number, a path
may be a `Path`, and one value may stand for a list of one: `overrides="batch=4"` (see `spider.arguments`). Where a
function has a `request`, its arguments are the fields of that class, which says what each means. All ranks of a world
call `train`, `dry_run` and `evaluate`; without a `world` these join the one that torchrun describes, or work alone.

The text of every error that they raise is one line:

    SpiderUsageError, ShardsUsageError, ClusterUsageError   an argument, a key or a combination is not allowed
    SpiderError, ShardsError, ClusterError                  a valid request failed; base classes of the three above
    MachineError, of ClusterError                           the machine failed: out of memory, no GPU, a lost rank
    OSError                                                 the disk refused a file, which the error names

Imports stand in the functions, so that importing this module, and calling what needs no network, does not load torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import is_out_of_memory
from neighbors.request import NeighborMatrixRequest, NeighborsRequest
from shards.missing import no_such
from spider.arguments import plain_arguments, words_or_file
from spider.errors import SpiderUsageError, shown
from spider.exchange.request import ExportRequest, ImportRequest
from spider.judge.classes.request import ClassesRequest
from spider.judge.instances.request import InstancesRequest
from spider.judge.request import EvaluateRequest
from spider.memory import needs_memory, training_needs_less
from spider.packing import PackRequest, VerifyRequest
from spider.pictures.request import GenerateRequest, InterpolateRequest, ProjectRequest
from spider.request import Request, asks
from spider.runs.request import TrainRequest
from spider.study.request import StudyRequest
from spider.toy.request import ToyRequest
from sweeps.request import SweepRequest

if TYPE_CHECKING:
    from cluster.jobs.submission import Submission
    from cluster.world import World
    from neighbors.matrix_report import MatrixReport
    from neighbors.report import NeighborReport
    from shards.index import DatasetIndex
    from shards.verify import Report
    from spider import weights
    from spider.config.explain import Key
    from spider.config.schema import Config
    from spider.cost.dry_run import DryRun
    from spider.demo.story import DemoResult
    from spider.exchange.importing import ImportedRun
    from spider.gan.sources.frozen import FrozenGenerator
    from spider.jobs.launch import Launch
    from spider.jobs.pipeline import Submitted
    from spider.jobs.stages import Stage
    from spider.jobs.status import Status
    from spider.judge.classes.build import ClassesReport
    from spider.judge.compare import Comparison
    from spider.judge.evaluation import Evaluation
    from spider.judge.instances.build import BankReport
    from spider.pictures.generate import Generated, Photos
    from spider.pictures.interpolate import Interpolation
    from spider.pictures.project import Projections
    from spider.runs.listing import RunSummary
    from spider.study.cost import StudyCost
    from spider.study.plan import StudyPlan
    from spider.study.study import Studied
    from spider.toy.lab import Laboratory
    from sweeps.cost import SweepCost
    from sweeps.report import SweepReport

__all__ = [
    "cancel",
    "checkpoint_bytes",
    "classes",
    "compare",
    "demo",
    "dry_run",
    "evaluate",
    "explain",
    "export",
    "generate",
    "import_pickle",
    "instances",
    "interpolate",
    "is_pipeline",
    "launch",
    "logs",
    "ls",
    "neighbor_matrix",
    "neighbors",
    "pack",
    "prepare_launch",
    "presets",
    "project",
    "read_pipeline",
    "status",
    "study",
    "study_cost",
    "study_stages",
    "submit_pipeline",
    "sweep",
    "sweep_cost",
    "toy",
    "train",
    "verify",
    "weights",
]


def __getattr__(name: str) -> Any:
    """`weights`: the module `spider.weights`, whose `list_weights`, `get` and `verify` are the verbs of that name."""
    if name == "weights":
        return import_module("spider.weights")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@asks(PackRequest)
@needs_memory("a smaller resolution or fewer workers need less")
def pack(request: PackRequest) -> DatasetIndex:
    """Pack images into shards: see `shards.pack.pack`."""
    from shards.pack import pack

    return pack(**request.values())


@asks(VerifyRequest)
def verify(request: VerifyRequest) -> Report:
    """Check every byte of packed shards: see `shards.verify.verify`. What is bad is in the report, not raised."""
    from shards.verify import verify

    return verify(request.shards, workers=request.workers, progress=request.progress)


@asks(NeighborsRequest)
@needs_memory("fewer images, sources or workers need less")
def neighbors(request: NeighborsRequest) -> NeighborReport:
    """Rank datasets by their signed distance to a target: see `neighbors.request`, `neighbors.find.neighbors`."""
    request.require_inputs()
    from neighbors.find import neighbors

    return neighbors(request.target, request.sources, out=request.out, options=request)


@asks(NeighborMatrixRequest)
@needs_memory("fewer images, datasets or workers need less")
def neighbor_matrix(request: NeighborMatrixRequest) -> MatrixReport:
    """Every dataset as a target, all others as its sources: see `neighbors.find.neighbor_matrix`. As `neighbors`."""
    request.require_inputs()
    from neighbors.find import neighbor_matrix

    return neighbor_matrix(request.datasets, out=request.out, options=request)


@asks(InstancesRequest)
@needs_memory("fewer neighbours or workers need less")
def instances(request: InstancesRequest) -> BankReport:
    """Make a bank of instances of a dataset: see `spider.judge.instances.request`, `spider.gan.conditions.bank`."""
    request.require_inputs()
    from spider.judge.instances.build import build_bank

    return build_bank(request)


@asks(ClassesRequest)
@needs_memory("fewer workers need less")
def classes(request: ClassesRequest) -> ClassesReport:
    """Make vectors of the classes of a dataset, and a classifier: see `spider.judge.classes.request`."""
    request.require_inputs()
    from spider.judge.classes.build import build_classes

    return build_classes(request)


@asks(TrainRequest)
def train(request: TrainRequest) -> str:
    """Train in the folder `run`, or go on with the run that it holds: see `spider.runs.request`.

    Returns:
        "finished"; "stopped" if a signal ended it, the state saved; "already finished" if there was nothing to do.

    Raises:
        SpiderUsageError: an unknown preset, key or value; a combination that cannot be; another run's folder.
        SpiderError, ShardsError, ClusterError: what failed.
    """
    composed, directory = request.checked(), request.directory
    less = needs_memory(training_needs_less(composed.networks_shrunk_by))
    with less, _joined(request.world, composed.compute.device, composed.engine.timeout_min) as ranks:
        from spider.runs.inputs import find_inputs
        from spider.runs.start import prepare
        from spider.train.loop import train

        composed.for_world(ranks.size)
        found, inputs = find_inputs(composed, request.inputs, ranks, request.progress)
        found = prepare(found, directory)
        ranks.barrier()  # nobody may find the configuration of this start where it looks for an older one
        return train(found, directory, ranks, inputs=inputs, branch=request.branch, progress=request.progress)


@asks(TrainRequest)
def dry_run(request: TrainRequest) -> DryRun:
    """What `train` with the same arguments would cost, from a few measured steps. Writes nothing into `run`."""
    composed = request.checked()
    less = needs_memory(training_needs_less(composed.networks_shrunk_by))
    with less, _joined(request.world, composed.compute.device) as ranks:
        from spider.cost.dry_run import dry_run
        from spider.runs.inputs import find_inputs
        from spider.runs.start import prepare

        found, _ = find_inputs(composed, request.inputs, ranks, request.progress)
        begins = request.branch is None and not request.directory.checkpoint_names()
        return dry_run(prepare(found, request.directory), ranks, begins=begins)


def launch(config: str | Path | None, run: str | Path, slurm: str, **arguments: Any) -> Submission:
    """Train as a job: `prepare_launch` with the same arguments, and its `submit()`."""
    return prepare_launch(config, run, slurm, **arguments).submit()


def prepare_launch(config: str | Path | None, run: str | Path, slurm: str, **arguments: Any) -> Launch:
    """A training as a job, checked, and ready for its `submit()`: the arguments are those of `train`."""
    from spider.jobs.launch import prepare_launch

    return prepare_launch(TrainRequest(config, run, **arguments), words_or_file("slurm", slurm))


def checkpoint_bytes(config: Config) -> int | None:
    """The size of a checkpoint, from the networks; None where they cannot be built, for want of inputs or memory."""
    try:
        from spider.cost.dry_run import checkpoint_bytes
    except ModuleNotFoundError:  # a login node need not have torch
        return None
    try:
        return checkpoint_bytes(config)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):  # nor the memory of the nodes
            raise
        return None


@plain_arguments("name")
def is_pipeline(name: str | None) -> bool:
    """Whether a name is that of a file of stages."""
    from spider.jobs.stages import is_pipeline

    return is_pipeline(name)


_VERBS: dict[str, type[Request]] = {
    "pack": PackRequest,
    "verify": VerifyRequest,
    "neighbors": NeighborsRequest,
    "neighbor_matrix": NeighborMatrixRequest,
    "instances": InstancesRequest,
    "classes": ClassesRequest,
    "train": TrainRequest,
    "sweep": SweepRequest,
    "evaluate": EvaluateRequest,
    "generate": GenerateRequest,
    "interpolate": InterpolateRequest,
    "project": ProjectRequest,
    "import_pickle": ImportRequest,
    "export": ExportRequest,
}  # of stages


@plain_arguments()
def read_pipeline(file: str | Path, run: str | Path, slurm: str) -> list[Stage]:
    """The stages of a file, checked: see `spider.jobs.stages`."""
    from spider.jobs.stages import read_pipeline
    from spider.jobs.submit import read_place

    return read_pipeline(file, run, read_place(slurm), _VERBS)


def foresee_pipeline(stages: list[Stage], *, again: bool = False) -> list[Submitted]:
    """What `submit_pipeline` would do, of which nothing is done: see `spider.jobs.pipeline.foresee`."""
    from spider.jobs.pipeline import foresee

    return foresee(stages, again=again)


def submit_pipeline(stages: list[Stage], *, again: bool = False) -> list[Submitted]:
    """Put what has not finished into the queue, in its order; with `again`, also what has."""
    from spider.jobs.pipeline import submit_pipeline

    return submit_pipeline(stages, again=again)


@plain_arguments()
def status(path: str | Path) -> Status:
    """How a run is, and its job; or a pipeline; or every run in a folder and below it: see `spider.jobs.status`."""
    from spider.jobs.status import status

    return status(path)


@plain_arguments()
def logs(run: str | Path, rank: int = 0) -> Path:
    """The file with what a rank of a run's last job prints. Raises SpiderError if there is none."""
    from spider.jobs.of_folder import log_file

    return log_file(Path(run), rank)


@plain_arguments()
def cancel(run: str | Path) -> list[str]:
    """Ask the job of a run, or all of a pipeline, to save and end. Their numbers. Raises SpiderError without any."""
    from spider.jobs.of_folder import cancel_jobs

    return cancel_jobs(Path(run))


def presets() -> dict[str, str]:
    """Every preset's name, and what it is in one line. `spider.config.load.preset_text` gives its YAML."""
    from spider.config.load import preset_names, preset_text

    return {name: preset_text(name).partition("\n")[0].removeprefix("#").strip() for name in preset_names()}


@plain_arguments()
def explain(key: str = "") -> list[Key]:
    """What a key of the configuration means, or every key of a section, or all of them: `spider config explain`."""
    from spider.config.explain import explain

    return explain(key)


@asks(EvaluateRequest)
@needs_memory("a smaller count, or a reference of fewer images, needs less")
def evaluate(request: EvaluateRequest) -> Evaluation:
    """Measure a run or a set of images: see `spider.judge.request`."""
    request.require_inputs()
    with _joined(request.world) as ranks:
        from spider.judge.evaluation import evaluate

        return evaluate(request, ranks)


@asks(GenerateRequest)
@needs_memory("fewer seeds at a time need less, above all with a grid")
def generate(request: GenerateRequest) -> Generated:
    """Write images of a run's averaged generator: see `spider.pictures.request`, `spider.pictures.generate`."""
    from spider.runs.directory import resolve

    resolve(str(request.run))
    from spider.pictures.generate import generate

    generator = _opened(request)
    return generate(generator, request, _photos(request, generator, request.weights))


@asks(ExportRequest)
@needs_memory("ONNX needs several times as much as the weights")
def export(request: ExportRequest) -> list[Path]:
    """Write a run's averaged generator for other programs: see `spider.exchange.exporting`. The files."""
    from spider.runs.directory import resolve

    resolve(str(request.run))
    from spider.exchange.exporting import export

    return export(request)


@asks(ImportRequest)
@needs_memory("a pickle needs about three times as much as its file has")
def import_pickle(request: ImportRequest) -> ImportedRun:
    """A pickle of networks to a run's folder: see `spider.exchange.importing`. Nothing of the pickle runs."""
    if not Path(request.file).is_file():
        raise SpiderUsageError(no_such(str(request.file), "file"))
    from spider.exchange.importing import import_pickle

    return import_pickle(request)


@asks(InterpolateRequest)
@needs_memory("fewer steps or seeds need less")
def interpolate(request: InterpolateRequest) -> Interpolation:
    """A grid or a loop between images of a run: see `spider.pictures.request`, `spider.pictures.interpolate`."""
    from spider.runs.directory import resolve

    resolve(str(request.run))
    from spider.pictures.interpolate import interpolate

    generator = _opened(request)
    weights_file = None if request.distance is not None else request.weights
    return interpolate(generator, request, _photos(request, generator, weights_file))


@asks(ProjectRequest)
@needs_memory("fewer images, or smaller networks, need less")
def project(request: ProjectRequest) -> Projections:
    """Find the inputs that make given images: see `spider.pictures.request`, `spider.pictures.project`."""
    from spider.runs.directory import resolve

    resolve(str(request.run))
    request.require_inputs()
    from spider.pictures.project import project

    return project(_opened(request), request)


@plain_arguments()
def ls(folder: str | Path) -> list[RunSummary]:
    """Every run in a folder and below it."""
    from spider.runs.listing import list_runs

    return list_runs(folder)


@plain_arguments()
def compare(runs: Sequence[str | Path]) -> Comparison:
    """Runs side by side: see `spider.judge.compare.compare_runs`; `spider.judge.compare_figure` draws it."""
    from spider.judge.compare import compare_runs

    return compare_runs(runs)


@asks(SweepRequest)
def sweep(request: SweepRequest) -> SweepReport:
    """Run many trainings that differ in a few keys, or go on with them: see `sweeps.request`, `sweeps.sweep.sweep`."""
    request.require_valid()  # mistakes in the file show before torch is loaded
    from sweeps.sweep import sweep

    return sweep(request.file, request.out, ray=request.ray or "local", progress=request.progress)


@plain_arguments()
def sweep_cost(file: str | Path, out: str | Path) -> SweepCost:
    """What `sweep` with the same arguments would do and cost, from a few measured steps. Writes nothing into `out`."""
    from sweeps.config import read_sweep

    read_sweep(file)
    from sweeps.cost import sweep_cost

    return sweep_cost(file, out)


@plain_arguments()
def demo(out: str | Path = "runs/demo", *, seed: int = 0, progress: bool = False) -> DemoResult:
    """The whole story on built-in data: see `spider.demo.story.demo`."""
    from spider.demo.story import demo

    return demo(Path(out), seed=seed, progress=progress)


@asks(StudyRequest)
def study(request: StudyRequest) -> Studied:
    """A matched comparison of named variants, or go on with it: see `spider.study.plan`, `spider.study.request`."""
    plan = _read_study(request, "local")
    from spider.study.study import study

    return study(request, plan)


@plain_arguments()
def study_stages(
    file: str | Path,
    given: Sequence[str] = (),
    *,
    out: str | Path,
    only: Sequence[str] = (),
    slurm: str = "local",
    keep: bool = False,
) -> tuple[list[Stage], list[str]]:
    """What is left of a study, checked, for `submit_pipeline(..., again=True)`; and why some of it is left out.

    With `keep`, its file is written into its folder.
    """
    plan = _read_study(StudyRequest(file, given, out=out, only=only), slurm)
    from spider.study import study

    found = study.to_submit(plan)  # which refuses runs of other keys, before the file of the study is replaced
    if keep:
        study.keep(plan)
    return found


@asks(StudyRequest)
def study_cost(request: StudyRequest) -> StudyCost:
    """What the trainings that are left of a study would take here, from a few measured steps of each kind."""
    plan = _read_study(request, "local")
    from spider.study.cost import study_cost
    from spider.study.study import to_submit

    return study_cost(plan, to_submit(plan)[0], at_once=request.at_once)


def _read_study(request: StudyRequest, slurm: str) -> StudyPlan:
    from spider.jobs.submit import read_place
    from spider.study.plan import read_study

    return read_study(Path(request.file), Path(request.out), request.named, read_place(slurm), _VERBS, request.only)


_PATIENCE_MIN, _NO_LIMIT_MIN = 60.0, 60.0 * 24 * 365


@asks(ToyRequest)
def toy(request: ToyRequest) -> Laboratory:
    """GANs of points in a plane, side by side, as a movie: see `spider.toy.request`."""
    from spider.toy.lab import toy

    return toy(request)


def _opened(request: GenerateRequest | InterpolateRequest | ProjectRequest) -> FrozenGenerator:
    """The run's averaged generator, on a GPU if there is one."""
    import torch

    from spider.runs.generator import open_generator

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = None if request.source is None else str(request.source)
    return open_generator(str(request.run), device, source_place=place)


def _photos(
    request: GenerateRequest | InterpolateRequest, generator: FrozenGenerator, weights_file: str | Path | None
) -> Photos | None:
    """What the generator is to be told of, if the request names such images."""
    if not request.instances:
        return None
    from spider.judge.instances.photos import read_photos

    return read_photos(request.instances, generator, None if weights_file is None else Path(weights_file))


@contextmanager
def _joined(world: World | None, device: str = "auto", timeout_min: float | None = 10.0) -> Iterator[World]:
    """`world`, or the one that the environment describes, left at the end.

    Args:
        timeout_min: a rank may make no step for so long. Those that wait for it give up later: what it says of itself
            tells more, and before the first step images may be packed.
    """
    from cluster.world import World as RealWorld

    if world is not None:
        if not isinstance(world, RealWorld):
            raise SpiderUsageError(f"world: a cluster.world.World, found {shown(world)}")
        yield world
        return
    patience_min = _NO_LIMIT_MIN if timeout_min is None else max(_PATIENCE_MIN, 2 * timeout_min)
    with RealWorld.from_env(None if device == "auto" else device, patience_min) as joined:
        yield joined
