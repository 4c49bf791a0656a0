"""AdamW over stacked parameters, with clipping, learning rate and failure for each model apart.

Learning rates are given for width 256 and scaled to other widths: matrices inside the model and the
head take rate * 256 / width, embeddings and gains take the rate itself. Initial deviations fall as
1 / sqrt(inputs). Under this per-layer rule the best rate of Adam does not move with the width
(Everett et al. 2024, arXiv:2407.05872, standard parametrisation). A tied matrix counts as a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from curate.proxy.model import MATRICES, Weights

BASE_WIDTH = 256

FINAL_SHARE = 0.1
"""Share of the learning rate that is left at the end of the cosine and the exponential."""

DECAY_SHARE = 0.2
"""Share of the steps over which warm-up-stable-decay falls to 0."""

Schedule = Literal["constant", "cosine", "exponential", "wsd"]


@dataclass(frozen=True, slots=True)
class OptimiserSettings:
    """Settings of the update; all defaults but the rate are RegMix's."""

    learning_rate: float
    """Rate at width 256, after warm-up."""
    schedule: Schedule = "constant"
    steps: int = 1000
    warmup_steps: int = 100
    weight_decay: float = 0.1
    """Decay of matrices; embeddings and gains have none."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip: float = 1.0
    """Largest norm of a model's gradient."""


def schedule_factor(settings: OptimiserSettings, step: int) -> float:
    """Return the share of the learning rate that applies in step `step`, counted from 1.

    Example:
        >>> settings = OptimiserSettings(1e-3, "wsd", steps=100, warmup_steps=10)
        >>> [round(schedule_factor(settings, step), 2) for step in (1, 10, 80, 90, 100)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
        >>> settings = OptimiserSettings(1e-3, "exponential", steps=110, warmup_steps=10)
        >>> [round(schedule_factor(settings, step), 3) for step in (5, 10, 60, 110)]
        [0.5, 1.0, 0.316, 0.1]
    """
    if step < settings.warmup_steps:
        return step / settings.warmup_steps
    left = max(0, settings.steps - step)
    span = max(1, settings.steps - settings.warmup_steps)
    if settings.schedule == "exponential":  # BiMix's, Ge et al. 2024, Section 5
        return math.pow(FINAL_SHARE, 1 - left / span)
    if settings.schedule == "cosine":
        wave = 0.5 * (1 - math.cos(math.pi * left / span))
        return FINAL_SHARE + (1 - FINAL_SHARE) * wave
    if settings.schedule == "wsd":
        return min(1.0, left / max(1.0, DECAY_SHARE * settings.steps))
    return 1.0


class StackedAdamW:
    """Updates a stack of models; holds their moments and which of them still train."""

    def __init__(
        self, weights: Weights, rates: Sequence[float], settings: OptimiserSettings
    ) -> None:
        """Start at step 0.

        Args:
            weights: Stacked float32 weights, updated in place.
            rates: shape (K,), learning rate of each model at width 256.
            settings: Settings of all models; `learning_rate` is not read, `rates` is.
        """
        self._weights = weights
        self._rates = rates
        self._settings = settings
        device = next(iter(weights.values())).device
        self.step_number = 0
        self.first: Weights = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.second: Weights = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.alive_K = torch.ones(len(rates), dtype=torch.bool, device=device)
        """False from the step on in which a model's gradient was not finite."""
        self.failed_step_K = torch.zeros(len(rates), dtype=torch.int64, device=device)
        """Step in which the gradient was not finite; 0 for never."""
        self._step = torch.zeros((), dtype=torch.float32, device=device)

    @torch.no_grad()
    def step(self) -> Tensor:
        """Clip, update, and clear the gradients.

        A model whose gradient is not finite keeps its weights and stops training; the others are
        not affected. Nothing here waits for the device: failures stay tensors, read later.

        Returns:
            Norms of the gradients before clipping, shape (K,).
        """
        self.step_number += 1
        settings, step = self._settings, self.step_number
        gradients: Weights = {}
        for name, weight in self._weights.items():
            assert weight.grad is not None, f"no gradient of {name} since the last step"
            gradients[name] = weight.grad
            weight.grad = None
        norm_K = _norms(gradients)
        fine_K = self.alive_K & torch.isfinite(norm_K)
        self.failed_step_K = torch.where(self.alive_K & ~fine_K, step, self.failed_step_K)
        self.alive_K = fine_K
        # The fused update divides gradients by a scale and leaves all as it is where told of an
        # infinity, which serves for clipping and for models that failed; one call for each model.
        scales = (norm_K.clamp_min(settings.clip) / settings.clip).unbind()
        dead = (~fine_K).to(torch.float32).unbind()
        self._step.fill_(step)
        factor = schedule_factor(settings, step)
        for decays in (True, False):
            names = [name for name in self._weights if (name in MATRICES) == decays]
            if not names:
                continue
            rate = factor * self._width_factor(names[0])
            decay = settings.weight_decay if decays else 0.0
            for model, (weights, grads, first, second) in enumerate(
                zip(
                    _by_model(self._weights, names),
                    _by_model(gradients, names),
                    _by_model(self.first, names),
                    _by_model(self.second, names),
                    strict=True,
                )
            ):
                torch._fused_adamw_(
                    weights, grads, first, second, [], [self._step] * len(names),
                    lr=self._rates[model] * rate, beta1=settings.beta1, beta2=settings.beta2,
                    weight_decay=decay, eps=settings.epsilon, amsgrad=False, maximize=False,
                    grad_scale=scales[model], found_inf=dead[model],
                )  # fmt: skip
        return norm_K

    def _width_factor(self, name: str) -> float:
        if name not in MATRICES:
            return 1.0
        return BASE_WIDTH / self._weights["final_norm"].shape[-1]


def _by_model(tensors: Weights, names: Sequence[str]) -> Iterator[list[Tensor]]:
    """Yield the named tensors of one model after the other, as views."""
    return map(list, zip(*(tensors[name].unbind() for name in names), strict=True))


def _norms(gradients: Weights) -> Tensor:
    """Compute the norm of each model's whole gradient, shape (K,)."""
    norms = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in gradients.values()]
    norm_K: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return norm_K
