"""How far a swarm has come and how fast it is, for whoever watches."""

from __future__ import annotations

import time

from torch import Tensor

from curate.runtime.progress import Observer, TrainingProgress

SHOW_SECONDS = 1.0
"""Between reports of progress: reading a loss makes the device wait."""


class SwarmProgress:
    """Tokens trained on so far, over all groups of a swarm."""

    def __init__(
        self, runs: int, steps: int, step_tokens: int, token_flops: float, observer: Observer
    ) -> None:
        """Begin at nothing.

        Args:
            runs: To train in all.
            steps: Of each.
            step_tokens: Of a run in one step.
            token_flops: Floating-point operations to train on a token.
            observer: Hears of it.
        """
        self.total_tokens = runs * steps * step_tokens
        self.notice = observer.notice
        self._steps, self._step_tokens, self._token_flops = steps, step_tokens, token_flops
        self._done = self._fresh = 0
        self._started = self._shown = time.monotonic()
        self._observer = observer

    def resume(self, step: int, models: int) -> None:
        """An earlier process has taken so many steps with these models."""
        self._done += step * models * self._step_tokens

    def elsewhere(self, runs: int) -> None:
        """So many runs have been trained by other processes."""
        self._done += runs * self._steps * self._step_tokens

    def add(self, step: int, loss_K: Tensor) -> None:
        """A step of models that train together, with their losses, shape (K,)."""
        tokens = self._step_tokens * len(loss_K)
        self._done += tokens
        self._fresh += tokens
        if time.monotonic() - self._shown < SHOW_SECONDS:
            return
        self._shown = time.monotonic()
        self._observer.train(
            TrainingProgress(
                len(loss_K), step, self._steps, float(loss_K.nanmean()),
                self._done, self._fresh, self.total_tokens, self._token_flops,
            )
        )  # fmt: skip

    def speed(self) -> str:
        """Tokens a second of this process, evaluations counted; nothing if it trained on none."""
        seconds = time.monotonic() - self._started
        return f", {self._fresh / max(seconds, 1e-9):,.0f} tokens/s" if self._fresh else ""
