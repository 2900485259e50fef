"""Choices from outside of the package that use all that a network may ask for and return."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import ClassVar

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, normalize, one_hot, softplus

from spider import draws
from spider.gan.augment.augmentation import Augmentation
from spider.gan.augment.config import AugmentationChoice
from spider.gan.auxiliary.auxiliary import Auxiliary
from spider.gan.auxiliary.config import AuxiliaryChoice
from spider.gan.conditions.conditions import Conditions
from spider.gan.conditions.config import ConditionChoice
from spider.gan.loss import Loss, Weighed
from spider.gan.method import Method
from spider.gan.networks.config import NetworkChoice
from spider.gan.objectives.config import GeneratorPenaltyChoice, ObjectiveChoice
from spider.gan.objectives.generator_penalties import GeneratorPenalty
from spider.gan.objectives.objective import Separable
from spider.gan.outputs import Condition, ConditionShape, DOut, Draw, GOut
from spider.gan.pixels import to_float
from spider.gan.saved import copy_of

WIDTH, SMALL = 6, 4
EYES = 1  # the weights that both networks look through, as if it were the sha256 of a file
TOYS = [  # a run of all that is below
    f"generator.kind={__name__}:Toy",
    f"discriminator.kind={__name__}:Toy",
    f"condition.kind={__name__}:Instances",
    f"objective.kind={__name__}:Slicing",
    "penalties.r1_gamma=1",
    "penalties.r2_gamma=1",
    f"augment=[{{kind: '{__name__}:Fade'}}]",
    f"auxiliary=[{{kind: '{__name__}:Taps'}}, {{kind: '{__name__}:Heads'}}]",
    f"g_penalties.more=[{{kind: '{__name__}:PathLength', weight: 0.5}}]",
    "g_penalties.interval_steps=3",
]


class Toy(NetworkChoice):
    """Linear networks that are noisy; the discriminator tells what its hidden layer saw, and heeds the time."""

    conditions: ClassVar[frozenset[str]] = frozenset({"instance"})

    def build_generator(self, input_shape, image_shape, told, world, frontend):
        return Generator(input_shape, image_shape, told)

    def build_discriminator(self, image_shape, told, world):
        return Discriminator(image_shape, told)


class Told(NetworkChoice):
    """Linear networks that are told an instance, and perhaps a class."""

    conditions: ClassVar[frozenset[str]] = frozenset({"instance", "class"})

    def build_generator(self, input_shape, image_shape, told, world, frontend):
        return ToldGenerator(input_shape, image_shape, told)

    def build_discriminator(self, image_shape, told, world):
        return ToldDiscriminator(image_shape, told)


class ToldGenerator(nn.Module):
    def __init__(self, input_shape, image_shape, told):
        super().__init__()
        self.layer = nn.Linear(prod(input_shape) + told.features + told.classes, prod(image_shape))
        self.classes, self.image_shape = told.classes, image_shape

    def forward(self, source, condition):
        return GOut(self.layer(joined(source, condition, self.classes)).tanh().unflatten(1, self.image_shape))


class ToldDiscriminator(nn.Module):
    def __init__(self, image_shape, told):
        super().__init__()
        self.layer = nn.Linear(prod(image_shape) + told.features + told.classes, 1)
        self.classes = told.classes

    def forward(self, images, condition):
        return DOut(self.layer(joined(images, condition, self.classes)))


def joined(values, condition, classes):
    parts = [values.flatten(1), condition.features]
    if classes:
        parts.append(one_hot(condition.labels, classes).to(values.dtype))
    return torch.cat(parts, 1)


class Tabled(NetworkChoice):
    """Linear networks with tables of class vectors: one of the generator, one in each of the discriminator's heads."""

    conditions: ClassVar[frozenset[str]] = frozenset({"class"})

    def build_generator(self, input_shape, image_shape, told, world, frontend):
        return TabledGenerator(input_shape, image_shape, told)

    def build_discriminator(self, image_shape, told, world):
        return TabledDiscriminator(image_shape, told)


class Table(nn.Module):
    def __init__(self, told, features, name):
        super().__init__()
        setattr(self, name, nn.Embedding(told.classes, 320))
        self.layer, self.name = nn.Linear(320 + features, 4), name

    def forward(self, values, condition):
        return self.layer(torch.cat([values.flatten(1), self.get_submodule(self.name)(condition.labels)], 1))


class TabledGenerator(nn.Module):
    def __init__(self, input_shape, image_shape, told):
        super().__init__()
        self.mapping, self.image_shape = Table(told, prod(input_shape), "class_vectors"), image_shape
        self.layer = nn.Linear(4, prod(image_shape))

    def forward(self, source, condition):
        return GOut(self.layer(self.mapping(source, condition)).tanh().unflatten(1, self.image_shape))


class TabledDiscriminator(nn.Module):
    def __init__(self, image_shape, told):
        super().__init__()
        self.heads = nn.ModuleList(Table(told, prod(image_shape), "embedding") for _ in range(2))

    def forward(self, images, condition):
        return DOut(torch.cat([head(images, condition) for head in self.heads], 1))


class Eyes(nn.Module):
    """A backbone that names its weights; whose statistics would move if it were not frozen."""

    def __init__(self, features):
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.scale = nn.Parameter(1 + 0.1 * torch.randn(features, generator=torch.Generator().manual_seed(EYES)))
        self.weights_digest = f"{EYES:064x}"

    def forward(self, values):
        return self.norm(values) * self.scale


class Generator(nn.Module, Method):
    def __init__(self, input_shape, image_shape, told):
        super().__init__()
        self.draws = {"noise": Draw("normal", (WIDTH,)), "mixed": Draw("uniform")}
        self.instance = nn.Linear(told.features, prod(input_shape))
        self.eyes = Eyes(prod(input_shape))
        self.mapping = nn.Linear(prod(input_shape), WIDTH)
        self.synthesis, self.small = nn.Linear(WIDTH, prod(image_shape)), nn.Linear(WIDTH, SMALL**2)
        self.image_shape = image_shape
        self.register_buffer("w_avg", torch.zeros(WIDTH))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, source, condition):
        given = self.eyes(source.flatten(1)) + self.instance(condition.features)
        latents = self.mapping(given) + 0.1 * self.w_avg
        mixed = condition.draws["mixed"].unsqueeze(1) < 0.5
        hidden = torch.where(mixed, latents.square(), latents.tanh()) + 0.3 * condition.draws["noise"]
        images, small = self.synthesis(hidden).tanh(), self.small(hidden).tanh()
        sizes = {"small": small.unflatten(1, (1, SMALL, SMALL)), "unasked": small}
        return GOut(images.unflatten(1, self.image_shape), latents, {"w": latents}, sizes)

    def touched(self):
        return self.w_avg, self.steps

    def stepped(self, phase, kept):
        if phase == "d_main":
            self.w_avg.lerp_(kept["w"].mean(0), 0.1)
            self.steps += 1


class Discriminator(nn.Module, Method):
    def __init__(self, image_shape, told):
        super().__init__()
        self.draws = {"noise": Draw("normal", (WIDTH,))}
        self.sizes = {"small": (SMALL, SMALL), "tiny": (2, 2)}
        self.small, self.tiny = nn.Linear(SMALL**2, WIDTH), nn.Linear(4, WIDTH)
        self.register_buffer("middle", torch.zeros(WIDTH))
        self.instance = nn.Linear(told.features, WIDTH)
        self.eyes = Eyes(prod(image_shape))
        self.norm_of_eyes = self.eyes.norm  # under two names
        self.hidden = nn.Linear(prod(image_shape), WIDTH)
        self.judge = nn.Linear(WIDTH, 2)

    def forward(self, images, condition):
        hidden = self.hidden(self.eyes(images.flatten(1)))
        small, tiny = (condition.sizes[name].flatten(1) for name in ("small", "tiny"))
        hidden = hidden + self.small(small) + self.tiny(tiny)
        last = (hidden - 0.1 * self.middle).tanh() + 0.3 * condition.draws["noise"]
        last = last + self.instance(condition.features)
        logits = self.judge(last)
        if condition.time is not None:
            logits = logits * (1 - condition.time.to(logits.dtype).unsqueeze(1))
        direction = last.detach() @ self.judge.weight.T
        return DOut(logits, {"hidden": hidden, "last": last, "direction": direction}, {"hidden": hidden})

    def touched(self):
        return (self.middle,)

    def stepped(self, phase, kept):
        if phase == "d_main":
            self.middle.lerp_((kept["real.hidden"] + kept["fake.hidden"]).mean(0), 0.1)


class Instances(ConditionChoice):
    """Both players are told features of an instance, and see one of its neighbours (IC-GAN)."""

    tells: ClassVar[str | None] = "instance"

    def build(self, dataset, paired_objective):
        pixels, _ = dataset.read_batch(range(len(dataset)))
        return InstanceConditions(normalize(adaptive_avg_pool2d(to_float(torch.from_numpy(pixels)), 2).flatten(1)))

    def restored(self, state, tensors):
        return InstanceConditions(tensors["features"])


class InstanceConditions(Conditions):
    def __init__(self, features):
        self.features = features
        self.shape = ConditionShape(features=features.shape[1])

    def order(self, dataset, kind, seed, global_batch):
        self.seed = seed
        distances = torch.cdist(self.features, self.features).fill_diagonal_(torch.inf)
        neighbours = distances.topk(3, largest=False).indices

        def read(start, stop):
            positions = range(start, stop)
            drawn = draws.integers(seed, "neighbour", positions, (), 3)
            return neighbours[self.instances(seed, "reals", positions), drawn].numpy()

        return read

    def instances(self, seed, stream, indices):
        return draws.integers(seed, f"{stream}.instance", indices, (), len(self.features))

    def of_reals(self, batch, device):
        return self.drawn(self.seed, "reals", batch.positions, device)

    def drawn(self, seed, stream, indices, device):
        return Condition(features=self.features[self.instances(seed, stream, indices)].to(device))

    def at(self, seed, indices, device):
        return self.drawn(seed, "eval", indices, device)

    def tensors(self):
        return {"features": self.features}


class Slicing(ObjectiveChoice):
    """A hinge with a margin for each logit (FastGAN), and a direction that is learnt by normalised weights (SAN)."""

    def build(self, discriminator, device):
        return Sliced(discriminator.judge.bias, device)


class Sliced(Separable, Method):
    def __init__(self, bias, device):
        self.bias = bias
        self.mean = torch.zeros((), dtype=torch.float64, device=device)

    def stepped(self, phase, kept):
        if kept:
            self.mean.lerp_(kept["real"].mean(dtype=torch.float64), 0.1)
        self.bias.clamp_(-1e-3, 1e-3)

    def tensors(self):
        return {"mean": self.mean}

    def touched(self):
        return (self.bias,)

    def d_real(self, logits):
        return (1 - logits).relu()

    def d_fake(self, logits):
        return (1 + logits).relu()

    def g_fake(self, logits):
        return softplus(-logits)

    def discriminator(self, real, fake, draws):
        terms = {}
        for name, sign, out in (("d_real", -1, real), ("d_fake", 1, fake)):
            logits, direction = out.logits, out.features["direction"]
            margin = 0.8 + 0.2 * draws.uniform(f"margin.{name}", logits.shape[1:]).to(logits.dtype)
            terms[name] = (margin + sign * (logits - self.mean)).relu()
            terms[f"{name}_direction"] = Weighed(sign * direction, (-logits).sigmoid())
        return Loss(terms, {"real": real.logits})

    def generator(self, fake, real, draws):
        return Loss({"g": Weighed(self.g_fake(fake.logits), fake.features["last"].square().mean(1).detach())})


class Fade(AugmentationChoice):
    """Fades images by as much as the discriminator is told."""

    def build(self, batch, image_shape):
        return Fading()


class Fading(Augmentation):
    def __call__(self, images, draws, use):
        return images * (1 - self.time(draws, use)).to(images.dtype)[:, None, None, None]

    def told(self, condition, draws, use):
        return replace(condition, time=self.time(draws, use))

    def time(self, draws, use):
        return draws.uniform(f"{use}.fade", ())


class Taps(AuxiliaryChoice):
    """Terms of an inner layer and of the image that it saw, and of views that an average of D judges (InsGen)."""

    def build(self, discriminator, image_shape, told, device):
        return Tapping(discriminator)


class Tapping(Auxiliary):
    def __init__(self, discriminator):
        self.average = copy_of(discriminator).requires_grad_(False)
        pairs = zip(self.average.parameters(), discriminator.parameters(), strict=True)
        self.moving = [pair for pair in pairs if pair[0] is not pair[1]]

    def parts(self):
        return {"discriminator": self.average}

    def touched(self):
        return [average for average, _ in self.moving]

    def stepped(self, phase, kept):
        if phase == "d_main":
            for average, now in self.moving:
                average.lerp_(now, 0.1)

    def discriminator(self, real, fake, draws):
        brightness = real.augmented.mean((1, 2, 3))
        near = fake.remade(lambda source: source + 0.1 * draws.normal("near", source.shape[1:]).to(source))
        view = real.again("view", network=self.average).features["hidden"] - real.out.features["hidden"]
        near = fake.again("near", near, self.average).features["hidden"] - fake.out.features["hidden"]
        return Loss(
            {
                "tap": (real.out.features["hidden"].mean(1) - brightness).square(),
                "view": view.square().mean(1),
                "near": near.square().mean(1),
            }
        )

    def generator(self, fake, draws):
        return Loss(
            {"tap": fake.out.features["hidden"].square().mean(1), "grey": fake.augmented.mean((1, 2, 3)).square()}
        )


class Heads(AuxiliaryChoice):
    """A layer that trains with the discriminator, and frozen eyes; it holds the last weights on the sphere."""

    def build(self, discriminator, image_shape, told, device):
        return Headed(discriminator, prod(image_shape))


class Headed(Auxiliary):
    def __init__(self, discriminator, pixels):
        self.head, self.frozen = nn.Linear(pixels, 1), Eyes(pixels)
        self.weight = discriminator.judge.weight

    def parts(self):
        return {"discriminator": self.head, "generator": self.frozen}

    def discriminator(self, real, fake, draws):
        told = self.head(real.augmented.flatten(1)) - self.head(fake.augmented.flatten(1))
        return Loss({"head": told.square()}, {"told": told})

    def generator(self, fake, draws):
        told = self.head(fake.augmented.flatten(1)) + self.frozen(fake.images.flatten(1)).mean(1, keepdim=True)
        return Loss({"head": told.square()}, {"told": told})

    def touched(self):
        return (self.weight,)

    def stepped(self, phase, kept):
        self.weight.div_(self.weight.norm())


class PathLength(GeneratorPenaltyChoice):
    """The generator's slope, held near its moving mean."""

    def build(self, image_shape, device):
        return PathLengths(device)


class PathLengths(GeneratorPenalty):
    def __init__(self, device):
        self.mean = torch.zeros((), dtype=torch.float64, device=device)

    def __call__(self, made, draws):
        images, latents = made.out.images, made.out.latents
        towards = draws.normal("path", images.shape[1:]).to(images.dtype)
        (slope,) = torch.autograd.grad((images * towards).sum(), latents, create_graph=True)
        length = slope.square().sum(1).sqrt()
        return (length - self.mean).square(), {"length": length}

    def stepped(self, phase, kept):
        if kept:
            self.mean.lerp_(kept["length"].mean().double(), 0.1)

    def tensors(self):
        return {"mean": self.mean}
