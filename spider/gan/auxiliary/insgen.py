"""Instance discrimination: D tells every image from all others (InsGen, Yang et al. 2021; FakeCLR, Li et al. 2022).

    query q, key k: two augmented views of one image, as heads make them of D's maps, of length 1
    term: cross entropy of [q k, q n_1, ..., q n_Q] / 0.2 with the first as the right one;  n: a queue of earlier keys

    of D: real images against real ones, and generated ones against generated ones (key: of a slightly moved input)
    of G: 0.1 times the same of its images, with the heads as they are

Keys come from averages of D and of the heads. Terms, heads and queues equal those of the public implementations
(genforce/insgen, training/contrastive_head.py and contrastive_loss.py; iceli1007/FakeCLR). What differs:

- Averages and queues move once, after D's main step if that was taken. There the heads' averages move in every forward
  pass, so several times in an iteration, and keys are pushed while a step is made.
- Both heads train with D, at its learning rate times `lr_factor`. There the second trains at G's.
- Means are over the global batch, and queues hold keys of all ranks. No process group is needed for that on one device.

As there, a batch larger than a queue overwrites all of it with its first keys. That is always so with 100 images, for
which the published rule (`queue=auto`) gives a queue of 5, or 10 where they are mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, softmax

from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.auxiliary import Auxiliary, Role, Seen
from spider.gan.auxiliary.config import InsgenConfig
from spider.gan.loss import Loss
from spider.gan.method import Kept
from spider.gan.saved import copy_of

DIM = 128  # of queries and keys
_MAP = "map"  # the name of the features that heads look at


class Insgen(Auxiliary):
    """See Auxiliary, and the module."""

    phases = ("d_main",)

    def __init__(self, config: InsgenConfig, discriminator: nn.Module, device: torch.device) -> None:
        """Raises SpiderUsageError: the discriminator does not tell its maps."""
        inputs = getattr(discriminator, "map_features", None)
        if inputs is None:
            raise SpiderUsageError(
                f"auxiliary: kind={config.kind} looks at D's last map, which {type(discriminator).__name__} does not "
                "tell: use discriminator.kind=stylegan2, or a network with map_features and features['map']"
            )
        self.config = config
        self.names = ["fake"] if config.real_weight == 0 else ["real", "fake"]
        heads = {name: head(inputs) for name in self.names}
        slow = {f"{name}_average": copy_of(each).requires_grad_(False) for name, each in heads.items()}
        self.average = copy_of(discriminator).requires_grad_(False)
        judge_alone = getattr(self.average, "judge_alone", None)
        if judge_alone is not None:
            judge_alone()
        self.heads = nn.ModuleDict({**heads, **slow, "discriminator_average": self.average})
        if config.queue == "auto":
            raise ValueError("auto was not filled in")
        self.queues = {name: Queue(config.queue, device) for name in self.names}
        pairs = [(self.average, discriminator), *((slow[f"{name}_average"], heads[name]) for name in self.names)]
        self._moving = [
            (average, now)
            for each, other in pairs
            for average, now in zip(each.parameters(), other.parameters(), strict=True)
            if average is not now
        ]

    def parts(self) -> Mapping[Role, nn.Module]:
        """See Auxiliary."""
        return {"discriminator": self.heads}

    def discriminator(self, real: Seen, fake: Seen, draws: Address) -> Loss:
        """See Auxiliary."""
        terms, keep = {}, {}
        if "real" in self.names:
            query, key = self._looks("real", real, None)
            terms["real"] = self.config.real_weight * self.told_apart("real", query, key)
            keep["real"] = key
        with torch.no_grad():
            assert fake.remade is not None
            near = fake.remade(partial(self._moved, draws))
        query, key = self._looks("fake", fake, near)
        terms["fake"] = self.config.fake_weight * self.told_apart("fake", query, key)
        with torch.no_grad():  # the public code pushes the queries, as the average of the head sees them
            keep["fake"] = self._through("fake_average", query)
        return Loss(terms, keep)

    def generator(self, fake: Seen, draws: Address) -> Loss:
        """See Auxiliary."""
        query, key = self._looks("fake", fake, None)
        return Loss({"fake": self.config.generator_weight * self.told_apart("fake", query, key)})

    def told_apart(self, name: str, query: Tensor, key: Tensor) -> Tensor:
        """Cross entropy of each image [N], of D's maps [N, C] and of keys [N, 128]."""
        q, queue = self._through(name, query), self.queues[name]
        same = (q * key).sum(1, keepdim=True)
        others = q @ queue.keys.to(q.dtype).T + queue.recency(self.config.forgetting).to(q.dtype)
        logits = torch.cat([same, others], 1) / self.config.temperature
        return cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.int64), reduction="none")

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method."""
        for average, now in self._moving:
            average.lerp_(now.to(average.dtype), 1 - self.config.momentum)
        for name, queue in self.queues.items():
            if name in kept:
                queue.push(kept[name])

    def touched(self) -> Sequence[Tensor]:
        """See Method."""
        return [average for average, _ in self._moving]

    def tensors(self) -> dict[str, Tensor]:
        """See Method."""
        return {f"{name}.{part}": each for name, queue in self.queues.items() for part, each in queue.tensors().items()}

    def _looks(self, name: str, seen: Seen, other: Tensor | None) -> tuple[Tensor, Tensor]:
        """D's map of one view [N, C], and the key of another [N, 128]: of the same images, or of `other` ones."""
        query = seen.again("query").features[_MAP]
        with torch.no_grad():
            key = self._through(f"{name}_average", seen.again("key", other, self.average).features[_MAP])
        return query, key

    def _through(self, name: str, maps: Tensor) -> Tensor:
        return normalize(self.heads[name](maps), dim=1)

    def _moved(self, draws: Address, source: Tensor) -> Tensor:
        """The generator's input beside the one that it was."""
        noise = draws.normal("near", source.shape[1:]).to(source.dtype)
        if self.config.near == "scaled":
            noise = noise * source.abs().clamp(0, 3)
        return source + self.config.near_std * noise


class Queue:
    """Keys [Q, 128] of earlier images, of length 1, the oldest overwritten first; and when each was pushed."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.keys = normalize(torch.randn(size, DIM), dim=1).to(device)
        self.pushed = torch.zeros(size, dtype=torch.float32, device=device)  # the number of the push
        self.place = torch.zeros((), dtype=torch.int64, device=device)
        self.pushes = torch.zeros((), dtype=torch.float32, device=device)
        self._slots = torch.arange(size, device=device)

    def push(self, keys: Tensor) -> None:
        """Put in the keys of a global batch [N, 128]."""
        size = len(self.keys)
        self.pushes += 1
        if len(keys) > size:
            slots, keys = self._slots, keys[:size]
        else:
            slots = (self.place + self._slots[: len(keys)]) % size
            self.place.copy_((self.place + len(keys)) % size)
        self.keys.index_copy_(0, slots, keys.to(self.keys.dtype))
        self.pushed.index_copy_(0, slots, self.pushes.expand(len(slots)))

    def recency(self, rule: str) -> Tensor:
        """What is added to the products with the keys [Q], before they are divided by the temperature.

        `paper`: FakeCLR's forgetting factor, more for newer keys. `code`: 1, which is what its released code computes.
        """
        if rule == "none":
            return torch.zeros_like(self.pushed)
        if rule == "code":
            return torch.ones_like(self.pushed)
        return softmax(normalize(self.pushed, dim=0), dim=0)

    def tensors(self) -> dict[str, Tensor]:
        """All that is remembered."""
        return {"keys": self.keys, "pushed": self.pushed, "place": self.place, "pushes": self.pushes}


def head(inputs: int) -> nn.Sequential:
    """D's map [N, C] -> [N, 128]."""
    return nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, DIM))
