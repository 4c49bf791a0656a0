"""Progress and throughput of a swarm, reported to an observer."""

from __future__ import annotations

import time

from torch import Tensor

from curate.runtime.progress import Observer, TrainingProgress

SHOW_SECONDS = 1.0
"""Time between reports; reading a loss makes the CPU wait for the device."""


class SwarmProgress:
    """Counts the tokens trained on, over all groups of a swarm."""

    def __init__(
        self, runs: int, steps: int, step_tokens: int, token_flops: float, observer: Observer
    ) -> None:
        """Start at 0 tokens.

        Args:
            runs: Runs to train in all.
            steps: Steps of each run.
            step_tokens: Tokens of a run in one step.
            token_flops: Floating-point operations to train on a token.
            observer: Receives the reports.
        """
        self.total_tokens = runs * steps * step_tokens
        self.notice = observer.notice
        self._steps, self._step_tokens, self._token_flops = steps, step_tokens, token_flops
        self._done = self._fresh = 0
        self._started = self._shown = time.monotonic()
        self._observer = observer

    def resume(self, step: int, models: int) -> None:
        """Count the steps that an earlier process has taken with these models."""
        self._done += step * models * self._step_tokens

    def elsewhere(self, runs: int) -> None:
        """Count runs that other processes have trained."""
        self._done += runs * self._steps * self._step_tokens

    def add(self, step: int, loss_K: Tensor) -> None:
        """Count a step of models that train together; report at most once a second.

        Args:
            step: Number of the step, from 1.
            loss_K: shape (K,), losses of the models, nats per token.
        """
        tokens = self._step_tokens * len(loss_K)
        self._done += tokens
        self._fresh += tokens
        if time.monotonic() - self._shown < SHOW_SECONDS:
            return
        self._shown = time.monotonic()
        self._observer.train(
            TrainingProgress(
                models=len(loss_K),
                step=step,
                steps=self._steps,
                loss=float(loss_K.nanmean()),
                done_tokens=self._done,
                fresh_tokens=self._fresh,
                total_tokens=self.total_tokens,
                token_flops=self._token_flops,
            )
        )

    def speed(self) -> str:
        """Format this process's tokens per second, evaluations included; empty without any."""
        seconds = time.monotonic() - self._started
        return f", {self._fresh / max(seconds, 1e-9):,.0f} tokens/s" if self._fresh else ""
