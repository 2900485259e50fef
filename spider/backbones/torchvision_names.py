"""What torchvision calls the networks that are read from files of its weights. Free of torch."""

from __future__ import annotations

from typing import Literal

TorchvisionName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4",
    "convnext_tiny", "convnext_small", "convnext_base",
    "mobilenet_v3_small", "mobilenet_v3_large",
]  # fmt: skip
