"""A vision transformer with weights from a file, frozen: the class token after the last block, or maps of patches.

    [N, 3, H, W] -> patches [N, P, width], a class token before them (and one of distillation), positions added
                 -> blocks of attention and a perceptron, each added to its input
                 -> the class token, normalised [N, width]; projected, where the network has a projection
                 -> or what the patches are after some of the blocks, [N, width, H / patch, W / patch]

Dosovitskiy et al. 2021, with the blocks normalised before attention and perceptron. Three published families are such
networks (`spider.backbones.dinov2`, `clip`, `deit`). They differ in names, in the activation, in the epsilon of the
normalisations, and in what stands before and after the blocks. Width, depth, patch and grid are those of the file; a
head is 64 wide, as in all of these families.

Layer scale (Touvron et al. 2021) is folded into the projections before it, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spider.backbones.layers import Layers

HEAD = 64  # numbers of a head
CPU_IMAGES = 8  # at a time


@dataclass(frozen=True)
class ViTNames:
    """What the tensors of a published family are called, and what its networks compute.

    Attributes:
        patches, class_token, positions, last_norm: names; of layers without `.weight`.
        first_norm: of the normalisation before the blocks, where there is one.
        distillation: of the token after that of the class, where there is one.
        block: what comes before the names of block `{}`.
        norms, qkv, attended, perceptron: within a block.
        scales: of the two layer scales, where there are any.
        projection: of the matrix [width, out] after the last normalisation, where there is one.
        has_patch_bias: whether the patches have a bias.
        eps: of the normalisations.
        activation: of the perceptron.
    """

    patches: str
    class_token: str
    positions: str
    last_norm: str
    block: str
    norms: tuple[str, str]
    qkv: tuple[str, str]  # weight and bias
    attended: str
    perceptron: tuple[str, str]
    eps: float
    activation: Callable[[Tensor], Tensor]
    first_norm: str | None = None
    distillation: str | None = None
    scales: tuple[str, str] | None = None
    projection: str | None = None
    has_patch_bias: bool = True


# As timm names them, and with it most families
TIMM = ViTNames(
    patches="patch_embed.proj",
    class_token="cls_token",
    positions="pos_embed",
    last_norm="norm",
    block="blocks.{}.",
    norms=("norm1", "norm2"),
    qkv=("attn.qkv.weight", "attn.qkv.bias"),
    attended="attn.proj",
    perceptron=("mlp.fc1", "mlp.fc2"),
    eps=1e-6,
    activation=F.gelu,
)


class VisionTransformer(nn.Module):
    """The network in evaluation mode, whatever `train` says: nothing in it differs.

    Attributes:
        patch: side of a patch, in pixels.
        grid: patches on a side of the images that the positions were trained for.
        width, depth: numbers of a token, and blocks.
        features: length of what comes out.
        weights_digest: of the network that a discriminator looks through, the sha256 of its file (`spider.gan.saved`).
    """

    weights_digest: str

    def __init__(self, layers: Layers, names: ViTNames) -> None:
        """From the tensors of a weights file.

        Raises:
            ValueError: they are not such a network's. The message says which tensor.
        """
        super().__init__()
        shape = layers.shape(f"{names.patches}.weight")
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[0] % HEAD or 0 in shape:
            raise ValueError(f"{names.patches}.weight is {list(shape)}, and should be [{HEAD} h, 3, patch, patch]")
        self.width, _, self.patch, _ = shape
        self.depth = 0
        while f"{names.block.format(self.depth)}{names.norms[0]}.weight" in layers:
            self.depth += 1
        if self.depth == 0:
            raise ValueError(f"it has no {names.block.format(0)}{names.norms[0]}.weight")
        first = [name for name in (names.class_token, names.distillation) if name is not None]
        tokens = layers.shape(names.positions)[-2:-1]
        self.grid = isqrt(max(0, tokens[0] - len(first))) if tokens else 0
        if self.grid < 1 or self.grid**2 + len(first) != tokens[0]:
            extra = "" if names.distillation is None else ", one of distillation"
            raise ValueError(f"{names.positions} is not of a class token{extra} and a square of patches")

        self.patches = nn.Conv2d(3, self.width, self.patch, self.patch, bias=names.has_patch_bias)
        bias = {"bias": layers.take(f"{names.patches}.bias", (self.width,))} if names.has_patch_bias else {}
        self.patches.load_state_dict({"weight": layers.take(f"{names.patches}.weight", shape), **bias})
        self.first_tokens = _parameter(torch.stack([_any_rank(layers, name, (self.width,)) for name in first]))
        self.positions = _parameter(_any_rank(layers, names.positions, (tokens[0], self.width)))
        self.first_norm = _norm(layers, names.first_norm, self.width, names.eps) if names.first_norm else nn.Identity()
        self.blocks = nn.ModuleList(_Block(layers, names, number, self.width) for number in range(self.depth))
        self.last_norm = _norm(layers, names.last_norm, self.width, names.eps)
        self.projection: nn.Parameter | None = None
        self.features = self.width
        if names.projection is not None:
            self.features = (layers.shape(names.projection) or (0,))[-1]
            self.projection = _parameter(layers.take(names.projection, (self.width, self.features)))
        layers.require_none_left()
        self.requires_grad_(False)
        self.float()

    def forward(self, images: Tensor) -> Tensor:
        """float [N, 3, H, W], normalised as in training, H and W multiples of the patch -> [N, features]."""
        seen = self.first(images)[:, 0]
        return seen if self.projection is None else seen @ self.projection

    def first(self, images: Tensor) -> Tensor:
        """Images as above -> the tokens before the patches after the last block, normalised [N, 1 or 2, width]."""
        tokens = self._tokens(images)
        for block in self.blocks:
            tokens = block(tokens)
        seen: Tensor = self.last_norm(tokens[:, : len(self.first_tokens)])
        return seen

    def maps(self, images: Tensor, after: Collection[int]) -> list[Tensor]:
        """Images as above -> the patches after so many blocks each, not normalised, [N, width, H / patch, W / patch].

        Differentiable by the images, also twice. `after`: each from 1 to `depth`.
        """
        rows, columns = (side // self.patch for side in images.shape[2:])
        tokens, found = self._tokens(images), []
        for number, block in enumerate(self.blocks, 1):
            tokens = block(tokens)
            if number in after:
                patches = tokens[:, len(self.first_tokens) :]
                found.append(patches.transpose(1, 2).unflatten(2, (rows, columns)))
        return found

    def _tokens(self, images: Tensor) -> Tensor:
        """What the first block is given, [N, tokens, width]."""
        patches = self.patches(images)  # [N, width, rows, columns]
        positions = self._positions(patches.shape[2], patches.shape[3])
        first = self.first_tokens.expand(len(images), -1, -1)
        tokens: Tensor = self.first_norm(torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + positions)
        return tokens

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Positions of the first tokens and of rows x columns patches, [tokens, width].

        On another grid than their own they are resized by PyTorch's bicubic rule with the factors (rows + 0.1) / grid
        and (columns + 0.1) / grid: the 0.1 is DINOv2's, and moves every position a little.
        """
        if (rows, columns) == (self.grid, self.grid):
            return self.positions
        first, patches = torch.split(self.positions, [len(self.first_tokens), self.grid**2])
        square = patches.T.reshape(1, self.width, self.grid, self.grid)
        factors = ((rows + 0.1) / self.grid, (columns + 0.1) / self.grid)
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic")
        return torch.cat([first, resized[0].flatten(1).T])


class _Block(nn.Module):
    """Attention, then a perceptron four times as wide; each of a normalised input, and added to it."""

    def __init__(self, layers: Layers, names: ViTNames, number: int, width: int) -> None:
        super().__init__()
        prefix = names.block.format(number)
        scales = [layers.take(f"{prefix}{name}", (width,)) for name in names.scales or ()]
        first, second = scales or (None, None)
        self.heads = width // HEAD
        self.activation = names.activation
        self.norm1, self.norm2 = (_norm(layers, f"{prefix}{name}", width, names.eps) for name in names.norms)
        self.qkv = _linear(layers, f"{prefix}{names.qkv[0]}", f"{prefix}{names.qkv[1]}", width, 3 * width)
        self.attended = _layer(layers, f"{prefix}{names.attended}", width, width, first)
        self.rise = _layer(layers, f"{prefix}{names.perceptron[0]}", width, 4 * width)
        self.fall = _layer(layers, f"{prefix}{names.perceptron[1]}", 4 * width, width, second)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        attended = _attention(q, k, v)  # [N, heads, tokens, 64]
        tokens = tokens + self.attended(attended.transpose(1, 2).flatten(2))
        risen: Tensor = self.fall(self.activation(self.rise(self.norm2(tokens))))
        return tokens + risen


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(64)) v. Torch's own, which is faster, can be differentiated once, and not on all devices."""
    if not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v)
    weights: Tensor = (q @ k.transpose(2, 3) / HEAD**0.5).softmax(dim=3)
    return weights @ v


def _norm(layers: Layers, name: str, width: int, eps: float) -> nn.LayerNorm:
    norm = nn.LayerNorm(width, eps)
    norm.load_state_dict({part: layers.take(f"{name}.{part}", (width,)) for part in ("weight", "bias")})
    return norm


def _layer(layers: Layers, name: str, inputs: int, outputs: int, scale: Tensor | None = None) -> nn.Linear:
    return _linear(layers, f"{name}.weight", f"{name}.bias", inputs, outputs, scale)


def _linear(
    layers: Layers, weight: str, bias: str, inputs: int, outputs: int, scale: Tensor | None = None
) -> nn.Linear:
    """A linear layer, its outputs times `scale` [outputs]."""
    gain = torch.ones(outputs).double() if scale is None else scale.double()
    layer = nn.Linear(inputs, outputs)
    layer.load_state_dict(
        {
            "weight": layers.take(weight, (outputs, inputs)).double() * gain[:, None],
            "bias": layers.take(bias, (outputs,)).double() * gain,
        }
    )
    return layer


def _any_rank(layers: Layers, name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of that shape, before which others may have dimensions of 1."""
    found = layers.shape(name)
    return layers.take(name, (1,) * (len(found) - len(shape)) + shape).reshape(shape)


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.float().contiguous(), requires_grad=False)
