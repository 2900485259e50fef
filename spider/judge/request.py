"""What an evaluation is asked for. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from spider import weights
from spider.arguments import Kind, how_many_or_which
from spider.errors import SpiderError, SpiderUsageError
from spider.measures import FEATURE_FILES, GENERATOR_METRICS, embedding_of
from spider.request import Request, WorkersRequest

if TYPE_CHECKING:
    from cluster.world import World
    from spider.gan.class_file import ClassesAbout
    from spider.gan.conditions.bank import BankAbout


def holds_features(place: str | Path) -> bool:
    """Whether a name is that of a file of features rather than of images."""
    return str(place).endswith(FEATURE_FILES) and not Path(place).is_dir()


DEFAULT_COUNT = 5000  # samples of a generator
DEFAULT_SEEDS = 5


@dataclass(frozen=True)
class FileOfImagesRequest(WorkersRequest):
    """A file made of the images that a training reads, for it to read beside them.

    Attributes:
        data: the images that a training reads, as `spider.data.open_images` takes them.
        out: the file to write, FILE.safetensors.
    """

    alone: ClassVar[tuple[str, ...]] = ("data",)
    places: ClassVar = {"data": "images"}

    data: str | Path
    out: str | Path

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid."""
        super().__post_init__()
        if not str(self.out).endswith(".safetensors"):
            raise SpiderUsageError(f"out: the file ends in .safetensors, found {str(self.out)!r}")

    def require_own(self, fingerprint: str, read: Callable[[Path], ClassesAbout | BankAbout], kind: str) -> None:
        """Refuse to replace a file that is not of these images.

        Args:
            fingerprint: of the images.
            read: what a file says of itself. Raises SpiderError: it is no such file.
            kind: what such a file is called.

        Raises SpiderUsageError.
        """
        out = Path(self.out)
        if not out.exists():
            return
        try:
            there = read(out)
        except SpiderError:
            raise SpiderUsageError(f"out: {out} is there, and no {kind}; name another file") from None
        if there.dataset != fingerprint:
            raise SpiderUsageError(f"out: {out} is of {there.name}, which are other images; name another file")


@dataclass(frozen=True)
class EvaluateRequest(Request):
    """A run's averaged generator, or a set of images, to be measured.

    Attributes:
        subject: RUN, RUN@best, RUN@KIMG; or images, as `spider.data.open_images` takes them.
        reference: images to be like, or a .npy or .npz file of their features under the embedding (docs/embeddings.md);
            None: the run's training images.
        reference_out: a .npy or .npz file for the reference's features, to be such a reference.
        source: where the images or the run that feed the run lie now, if they have moved. The run notes it.
        data: the same of its training images.
        metrics: names from `spider.measures`, in a list or as `fid,kid`: of `METRICS`, which compare images, and of
            `GENERATOR_METRICS`, which move a generator's input and need no reference.
        protocol: a name from `spider.judge.metrics.protocols.PROTOCOLS`, which also says which embedding.
        embedding: `inception` (the default), or another one of docs/embeddings.md.
        weights: a file for the embedding.
        distance: how different two images look, for path lengths: `efficientnet`, `lpips_alex` or `lpips_vgg`.
        count: images to measure; None: 5,000 of a generator, all of a set. Of a set, so many are drawn by the seed.
        seeds: how many evaluation seeds (0, 1, ...), or which; None: five for a generator, one for a set.
        classes: names or numbers of classes: of a run's samples only those of these, and of its training images;
            none: what the run says (`evaluate.classes`), which may be all. A reference that is named counts whole.
        balanced: of a run's samples all classes alike, whatever `condition.samples` of the run says.
        bank: a bank of instances of any images, by the same embedding, in place of those that the run keeps.
        figures: a folder for the memorisation page of the first seed, `memorisation-EMBEDDING.png`; it brings the
            metric `nearest` with it. A run of fewer than 5,000 training images gets the page anyhow, beside `out`, or
            among the run's evaluations.
        out: a JSON file for the results with all their provenance.
        progress: show bars.
        world: the ranks, which all ask; None: those that torchrun describes, or this process alone.
    """

    command: ClassVar[tuple[str, ...]] = ("evaluate",)
    alone: ClassVar[tuple[str, ...]] = ("subject",)
    repeated: ClassVar[tuple[str, ...]] = ("classes",)
    options: ClassVar[Mapping[str, str]] = {"classes": "--class"}
    kinds: ClassVar[Mapping[str, Kind]] = {"seeds": how_many_or_which}
    places: ClassVar = {
        "subject": "images or run", "reference": "images", "source": "images or run", "data": "images",
        "weights": "file", "bank": "file",
    }  # fmt: skip
    written: ClassVar = ("out", "reference_out", "figures")

    subject: str | Path
    _: KW_ONLY
    reference: str | Path | None = None
    reference_out: str | Path | None = None
    source: str | Path | None = None
    data: str | Path | None = None
    metrics: str | Sequence[str] = ("fid", "kid")
    protocol: str | None = None
    embedding: str | None = None
    weights: str | Path | None = None
    distance: str = "efficientnet"
    count: int | None = None
    seeds: int | Sequence[int] | None = None
    classes: Sequence[str | int] = ()
    balanced: bool = False
    bank: str | Path | None = None
    figures: str | Path | None = None
    out: str | Path | None = None
    progress: bool = False
    world: World | None = None

    def __post_init__(self) -> None:
        """Raises SpiderUsageError: a field, the value found and what would be valid."""
        super().__post_init__()
        if not self.compares:
            named = {"reference": self.reference, "reference_out": self.reference_out, "figures": self.figures}
            for name, value in named.items():
                if value is not None:
                    option, asked = name.replace("_", "-"), ",".join(self.of_generator)
                    raise SpiderUsageError(f"--{option} {value}: --metrics {asked} compares with no images")

    def seed_list(self, default: int) -> list[int]:
        """Which evaluation seeds: so many from 0 on, or these. Raises SpiderUsageError: none."""
        seeds = default if self.seeds is None else self.seeds
        chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        if not chosen:
            raise SpiderUsageError("--seeds 0: at least one evaluation seed is needed")
        return chosen

    @property
    def of_images(self) -> list[str]:
        """The metrics that compare images with images."""
        return [name for name in self.metrics if name not in GENERATOR_METRICS]

    @property
    def of_generator(self) -> list[str]:
        """The metrics of a generator itself."""
        return [name for name in self.metrics if name in GENERATOR_METRICS]

    @property
    def compares(self) -> bool:
        """Whether images are compared with images. Without any metric they are, which then asks for one."""
        return bool(self.of_images) or not self.of_generator

    @property
    def embedding_name(self) -> str:
        """The name of the embedding, before a protocol is looked up. Unknown names are refused there."""
        return embedding_of(self.protocol) if self.embedding is None else self.embedding

    def require_inputs(self) -> None:
        """Refuse what is neither a run's checkpoint nor images, and weights that are not there."""
        from spider.data import require_images
        from spider.runs.directory import names_run, resolve

        name = str(self.subject)
        if names_run(name):
            resolve(name)
        else:
            require_images(name)
        if self.reference is not None:
            require_images(self.reference)
            if Path(self.reference).suffix == ".pkl":
                raise SpiderUsageError(
                    f"--reference {self.reference}: a pickle is code, and is not read; where you trust it, save its "
                    "mean and covariance as mu and sigma of an .npz file (docs/embeddings.md has the command)"
                )
        if self.reference_out is not None:
            if not holds_features(self.reference_out):
                raise SpiderUsageError(f"--reference-out {self.reference_out}: the name ends in .npz or .npy")
            if self.reference is not None and holds_features(self.reference):
                raise SpiderUsageError(f"--reference-out: the reference lies in a file already, {self.reference}")
        if self.compares:
            weights.of_embedding(self.embedding_name, self.weights)

    def require_valid(self, ranks: int, trained: Collection[Path] = ()) -> None:
        """See the base class."""
        if isinstance(self.seeds, list):
            raise SpiderUsageError("seeds: a stage says how many; a list is only for spider.api.evaluate")
