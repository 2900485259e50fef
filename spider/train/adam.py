"""Adam, and its settings by the clock."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from spider.config.schema import OptimizerConfig
from spider.settings.schedule import value_at


class Adam(torch.optim.Adam):
    """torch's Adam, of which nothing is compiled.

    torch wraps these methods for compiled functions that call them, and the wrappers import its compiler: 1.3 s of CPU
    time and 150 MB of memory in every process that trains.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


def adam_settings(config: OptimizerConfig, own_phase_interval: int | None, images: int) -> dict[str, Any]:
    """Adam's learning rate and betas when the clock stands at `images`.

    With `own_phase_interval` = k the player steps k + 1 times in k iterations, the extra one for a lazy penalty, and lr
    and betas become what makes that equivalent: lr c, beta^c, c = k / (k + 1) (StyleGAN2, appendix B).
    """
    c = 1.0 if own_phase_interval is None else own_phase_interval / (own_phase_interval + 1)
    lr, beta1, beta2 = (value_at(schedule, images) for schedule in (config.lr, config.beta1, config.beta2))
    return {"lr": lr * c, "betas": (beta1**c, beta2**c)}
