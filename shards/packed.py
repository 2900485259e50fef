"""A folder that holds a dataset already: whether it is what this pack would make."""

from __future__ import annotations

from io import BytesIO
from itertools import zip_longest
from pathlib import Path

import numpy as np

from shards.contact_sheet import contact_sheet
from shards.convert import read_contents
from shards.dataset import ShardDataset
from shards.errors import ShardsUsageError
from shards.files import write_whole
from shards.index import DatasetIndex
from shards.pack_job import PackJob
from shards.series import JOURNAL_NAME, forget_journal
from shards.vectors import as_rows

SHEET_NAME = "contact-sheet.png"


def write_sheet(out: Path) -> None:
    """The contact sheet of the dataset in `out`."""
    buffer = BytesIO()
    contact_sheet(ShardDataset(out)).save(buffer, "PNG")
    write_whole(out / SHEET_NAME, buffer.getvalue())


def keep_what_is_there(job: PackJob) -> DatasetIndex:
    """The dataset in `out`, if it is what this pack would make."""
    dataset = ShardDataset(job.out)
    index = dataset.index
    there, asked = index.options.model_dump(), job.options.model_dump()
    if job.options.encoding == "auto":  # whatever it is stored as will do
        asked["encoding"] = there["encoding"]
    differences = [f"{key} is {there[key]}, not {asked[key]}" for key in there if there[key] != asked[key]]
    if not differences:
        contents = list(job.map(read_contents, job.source, job.chosen, "compare"))
        if job.input_digest(contents) != index.source.digest:
            differences = [f"it was packed from other images ({index.source.kind} {index.source.name})"]
        else:
            differences = _label_differences(job, dataset)
    if differences:
        raise ShardsUsageError(f"{job.out} holds another dataset: {'; '.join(differences)}; choose another folder")
    if not (job.out / SHEET_NAME).exists():
        write_sheet(job.out)
    if (job.out / JOURNAL_NAME).exists():
        forget_journal(job.out)
    job.say(f"{job.out}: already packed from the same images with the same options")
    return index


def _label_differences(job: PackJob, dataset: ShardDataset) -> list[str]:
    """In what the labels of a dataset that was packed from the same files are not those of the source: a line or none.

    They are compared themselves, as the input's digest does not hold them.
    """
    listing, index = job.source.listing, dataset.index
    for number, (there, now) in enumerate(zip_longest(index.classes, listing.classes, fillvalue="none")):
        if there != now:
            return [f"its class {number} is {there}, not {now}"]
    dim = 0 if index.vectors is None else index.vectors.dim
    if dim != listing.vector_dim:
        return [f"its labels are vectors of {dim} numbers, not {listing.vector_dim}"]
    item_of = {item.key: item for item in (listing.items[number] for number in job.chosen)}
    keys = [dataset.key(number) for number in range(len(dataset))]  # bad files are not among them
    for key in keys:
        if key not in item_of:
            return [f"it holds an image {key}, which is not among them"]
    items = [item_of[key] for key in keys]
    differ = dataset.labels() != np.array([item.label for item in items])
    vectors = dataset.vectors()
    if vectors is not None:
        rows = as_rows([item.vector for item in items], dim)
        differ |= ((vectors != rows) & ~(np.isnan(vectors) & np.isnan(rows))).any(axis=1)
    if not differ.any():
        return []
    count, first = int(differ.sum()), keys[int(differ.argmax())]
    return [f"the labels of {count:,} of its {len(keys):,} images are other ones now; the first is {first}"]
