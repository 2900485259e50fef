"""The protocol of embeddings: a frozen map from images to vectors, that names everything which changes its numbers.

An embedding is a network or a transform together with the rule that resizes and scales the images for it. Two
numbers may be compared only if their embeddings have the same `digest`.
"""

from typing import Protocol

from torch import Tensor

WITH_LOGITS = "inception, efficientnet"


class Embedding(Protocol):
    """A frozen map from uint8 images to feature vectors."""

    @property
    def name(self) -> str:
        """The family, of `spider.measures.EMBEDDINGS`."""

    @property
    def protocol(self) -> str:
        """The resize and scale rule, of `spider.measures.RESIZE_RULES`."""

    @property
    def label(self) -> str:
        """What tables print, e.g. `inception/tf`, `dinov2_vitl14/dgm_eval`. Names what is not the real thing."""

    @property
    def dim(self) -> int:
        """Length of a feature vector."""

    @property
    def digest(self) -> str:
        """sha256, in hex, over the weights (or filters) and the rule."""

    @property
    def has_logits(self) -> bool:
        """Whether `features_and_logits` may be called."""

    def features(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W], C 1 or 3, any H and W -> float32 [N, dim], on the embedding's device."""

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features as above, and class logits float32 [N, classes]. Raises `SpiderUsageError` without logits."""
