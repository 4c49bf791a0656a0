"""Cross-entropy of a linear head that never holds the logits of all tokens at once.

For a chunk of tokens at a time, the forward pass computes logits, softmax, loss and both gradients,
so training needs three products with the head and recomputes none. A chunk belongs to a group of
models small enough that each of them brings many tokens: every chunk reads and rewrites the
gradient of its group's heads, which would cost more than the products if a chunk had few tokens.

Shapes: K models, N tokens of each, D width, V vocabulary; G models and C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MOST_LOGITS = {"cuda": 1 << 29, "cpu": 1 << 19}
"""Logits of a chunk, all its models together: 1 GiB in bfloat16, 2 MiB in float32 (a CPU's cache).
A chunk of `LEAST_TOKENS` of one model may hold more."""

LEAST_TOKENS = {"cuda": 4096, "cpu": 128}
"""Fewest tokens of a model in a chunk before chunks are evened out, if there are as many. At 128
tokens a CPU multiplies with a head of 50k ids at 99 % of its best rate, at 32 tokens at 66 %."""

GOOD_TOKENS = {"cuda": 8192, "cpu": 512}
"""Tokens of a model at which a chunk takes one model more rather than more tokens. On a GPU, 8192
tokens by width 256 are 128 tiles of a product, about as many as it has multiprocessors."""

TOKEN_TILE = 128
"""Chunks on a GPU are multiples of this many tokens: the side of a matrix unit's tile."""


@dataclass(frozen=True, slots=True)
class HeadChunk:
    """Part of a batch whose logits exist at the same time."""

    models: int
    tokens: int
    """Tokens of each model."""

    def parts(self, models: int, tokens: int) -> Iterator[tuple[slice, slice]]:
        """Yield the models and the tokens of every chunk, all chunks of a model in sequence.

        Args:
            models: Models of the batch, K.
            tokens: Tokens of each model, N.
        """
        for model in range(0, models, self.models):
            for token in range(0, tokens, self.tokens):
                yield (
                    slice(model, min(model + self.models, models)),
                    slice(token, min(token + self.tokens, tokens)),
                )


def head_chunk(models: int, tokens: int, vocabulary: int, kind: str) -> HeadChunk:
    """Choose chunks with many tokens of each model, and of about equal sizes.

    Args:
        models: Models of the batch.
        tokens: Tokens of each model.
        vocabulary: Rows of the head.
        kind: Type of the device, `cuda` or `cpu`; others count as `cuda`.

    Example:
        >>> head_chunk(8, 131_072, 50_432, "cuda"), head_chunk(64, 2048, 8192, "cuda")
        (HeadChunk(models=1, tokens=10112), HeadChunk(models=32, tokens=2048))
        >>> head_chunk(16, 512, 50_432, "cpu"), head_chunk(16, 512, 1024, "cpu")
        (HeadChunk(models=1, tokens=128), HeadChunk(models=1, tokens=512))
    """
    kind = kind if kind in MOST_LOGITS else "cuda"
    tile = 1 if kind == "cpu" else TOKEN_TILE
    most = MOST_LOGITS[kind]
    least, good = min(tokens, LEAST_TOKENS[kind]), min(tokens, GOOD_TOKENS[kind])
    group = max(1, min(models, most // (good * vocabulary)))
    group = _evenly(models, group)
    fitting = most // (group * vocabulary) // tile * tile
    chunk = _evenly(tokens, max(fitting, least))
    return HeadChunk(group, min(tokens, -(-chunk // tile) * tile))


def _evenly(items: int, most: int) -> int:
    """Size of the parts, if `items` are divided into as few parts of at most `most` as possible."""
    return -(-items // -(-items // most))


class HeadLoss:
    """Losses and gradients of a stack's head.

    It keeps memory for the logits and the softmax of a chunk from one batch to the next: a CPU's
    allocator returns tensors of this size to the system each time, which costs as much as the
    products of a small head.
    """

    def __init__(self, kind: str, chunk: HeadChunk | None = None) -> None:
        """Hold no memory yet.

        Args:
            kind: Type of the device, see `head_chunk`.
            chunk: Models and tokens at a time; None chooses for each batch.
        """
        self._kind, self._set_chunk = kind, chunk
        self._flat: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def gradients(
        self,
        hidden_KND: Tensor,
        head_KVD: Tensor,
        target_KN: Tensor,
        gradient_KVD: Tensor,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Compute the mean cross-entropy of each model and its gradients.

        The target's probability is read from the softmax, so in bfloat16 one token's loss is good
        to 0.004 nats and the mean of a batch to far less; `token_losses` is exact.

        Args:
            hidden_KND: Result of `hidden_states`, in the type to compute in.
            head_KVD: The head, in the same type.
            target_KN: Ids of the tokens to predict, int64.
            gradient_KVD: float32; the gradient of `scale` times the loss by the head is added.
            scale: Factor of the gradients, but not of the losses that are returned.

        Returns:
            Nats per token, shape (K,), float32; and the gradient of `scale` times the loss by the
            hidden states.
        """
        K, N, _ = hidden_KND.shape
        total_K = torch.zeros(K, dtype=torch.float32, device=hidden_KND.device)
        grad_hidden_KND = torch.empty_like(hidden_KND)
        for models, tokens in self._chunk(hidden_KND, head_KVD).parts(K, N):
            part_GCD, head_GVD = hidden_KND[models, tokens], head_KVD[models]
            target_GC1 = target_KN[models, tokens, None]
            logits_GCV, softmax_GCV = self._logits(part_GCD, head_GVD)
            torch.bmm(part_GCD, head_GVD.transpose(1, 2), out=logits_GCV)
            torch.softmax(logits_GCV, dim=-1, out=softmax_GCV)
            probability_GC1 = softmax_GCV.gather(-1, target_GC1)
            total_K[models] -= probability_GC1.float().clamp_min(_TINY).log().sum((1, 2))
            # The logits' gradient is softmax - one_hot(target); it is made in place.
            softmax_GCV.scatter_(-1, target_GC1, probability_GC1 - 1)
            grad_hidden_KND[models, tokens] = torch.bmm(softmax_GCV, head_GVD)
            _add_product(gradient_KVD[models], softmax_GCV.transpose(1, 2), part_GCD, scale / N)
        return total_K / N, grad_hidden_KND.mul_(scale / N)

    @torch.no_grad()
    def token_losses(self, hidden_KND: Tensor, head_KVD: Tensor, target_KN: Tensor) -> Tensor:
        """Cross-entropy of every token, without gradients.

        Args:
            hidden_KND: Result of `hidden_states`, in the type to compute in.
            head_KVD: The head, in the same type.
            target_KN: Ids of the tokens to predict, int64.

        Returns:
            Nats, shape (K, N), float32.
        """
        K, N, _ = hidden_KND.shape
        losses_KN = hidden_KND.new_empty((K, N), dtype=torch.float32)
        for models, tokens in self._chunk(hidden_KND, head_KVD).parts(K, N):
            logits_GCV = torch.bmm(hidden_KND[models, tokens], head_KVD[models].transpose(1, 2))
            logarithms_GCV = torch.log_softmax(logits_GCV, dim=-1, dtype=torch.float32)
            target_GC1 = target_KN[models, tokens, None]
            losses_KN[models, tokens] = -logarithms_GCV.gather(-1, target_GC1).squeeze(-1)
        return losses_KN

    def _chunk(self, hidden_KND: Tensor, head_KVD: Tensor) -> HeadChunk:
        models, tokens, _ = hidden_KND.shape
        return self._set_chunk or head_chunk(models, tokens, head_KVD.shape[1], self._kind)

    def _logits(self, part_GCD: Tensor, head_GVD: Tensor) -> tuple[Tensor, ...]:
        """Return two tensors for the logits of a chunk, contiguous even for the last."""
        sizes = (*part_GCD.shape[:2], head_GVD.shape[1])
        values = sizes[0] * sizes[1] * sizes[2]
        if not self._flat or len(self._flat[0]) < values:
            self._flat = ()  # frees the old ones first
            self._flat = (part_GCD.new_empty(values), part_GCD.new_empty(values))
        return tuple(flat[:values].view(sizes) for flat in self._flat)


_TINY = 1e-38
"""Smallest probability whose logarithm is taken, for a token that the softmax rounds to 0."""


def _add_product(sum_GVD: Tensor, one_GVC: Tensor, other_GCD: Tensor, scale: float) -> None:
    """Add a product times `scale` to a float32 sum, in place."""
    if one_GVC.dtype == sum_GVD.dtype:
        sum_GVD.baddbmm_(one_GVC, other_GCD, alpha=scale)
    else:
        sum_GVD.add_(torch.bmm(one_GVC, other_GCD), alpha=scale)


def propagate(hidden_KND: Tensor, grad_KND: Tensor) -> None:
    """Add the gradients of what hidden states were computed from, given the gradient by those.

    `hidden_KND.backward(grad_KND)` does the same and first imports `torch.fx.experimental`, and
    with it SymPy, to compare two shapes: .75 s of CPU in every process that trains.

    Args:
        hidden_KND: Result of `hidden_states`.
        grad_KND: Gradient of a loss by them.
    """
    nothing: Tensor = _Nothing.apply(hidden_KND, grad_KND)  # type: ignore[no-untyped-call]
    nothing.backward()  # type: ignore[no-untyped-call]


class _Nothing(torch.autograd.Function):
    """Zero, whose gradient by the first argument is the second."""

    @staticmethod
    def forward(ctx: Any, hidden_KND: Tensor, grad_KND: Tensor) -> Tensor:
        ctx.save_for_backward(grad_KND)
        return hidden_KND.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        (grad_KND,) = ctx.saved_tensors
        return grad_KND, None
