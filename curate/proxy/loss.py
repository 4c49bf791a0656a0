"""Cross-entropy of a linear head that never holds the logits of all tokens at once.

For a chunk of tokens at a time, the forward pass computes logits, softmax, loss and both gradients,
so training needs three products with the head and recomputes none. Memory holds one chunk and a
gradient as large as the head.

Shapes: K models, N tokens of each, D width, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CHUNK_LOGITS = {"cuda": 1 << 27, "cpu": 1 << 21}
"""Logits of a chunk, all models together: 256 MB in bfloat16, 8 MB in float32 (a CPU's cache)."""


def chunk_tokens(models: int, vocabulary: int, device: torch.device, logits: int = 0) -> int:
    """Choose how many tokens of each model form a chunk.

    Args:
        models: Number of models in the stack.
        vocabulary: Rows of the head.
        device: Device of the models.
        logits: Most logits of a chunk, all models together; 0 takes the device's default.
    """
    room = logits or CHUNK_LOGITS.get(device.type, CHUNK_LOGITS["cuda"])
    return max(1, room // (models * vocabulary))


class _HeadLoss(torch.autograd.Function):
    """Mean loss of each model; the forward pass computes the gradients too."""

    @staticmethod
    def forward(
        ctx: Any, hidden_KND: Tensor, head_KVD: Tensor, target_KN: Tensor, chunk: int
    ) -> Tensor:
        K, N, _ = hidden_KND.shape
        weight_KVD = head_KVD.to(hidden_KND.dtype)
        total_K = torch.zeros(K, dtype=torch.float32, device=hidden_KND.device)
        grad_hidden_KND = torch.empty_like(hidden_KND)
        grad_head_KVD = torch.zeros_like(head_KVD)
        for start in range(0, N, chunk):
            part = slice(start, min(start + chunk, N))
            part_KCD, target_KC1 = hidden_KND[:, part], target_KN[:, part, None]
            logits_KCV = torch.bmm(part_KCD, weight_KVD.transpose(1, 2))
            softmax_KCV = torch.softmax(logits_KCV, dim=-1)
            del logits_KCV  # logits and softmax of one chunk only; the next chunk reuses the memory
            target_probability_KC1 = softmax_KCV.gather(-1, target_KC1)
            total_K -= target_probability_KC1.float().clamp_min(_TINY).log().sum((1, 2))
            # The logits' gradient is softmax - one_hot(target); it is made in place.
            softmax_KCV.scatter_(-1, target_KC1, target_probability_KC1 - 1)
            grad_hidden_KND[:, part] = torch.bmm(softmax_KCV, weight_KVD)
            grad_head_KVD += torch.bmm(softmax_KCV.transpose(1, 2), part_KCD)
        ctx.gradients = grad_hidden_KND.div_(N), grad_head_KVD.div_(N)
        return total_K / N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_K: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, head = ctx.gradients
        del ctx.gradients  # backward runs once, and scales the gradients in place
        grad_K11 = grad_K[:, None, None]
        return hidden.mul_(grad_K11.to(hidden.dtype)), head.mul_(grad_K11), None, None


_TINY = 1e-38
"""Smallest probability whose logarithm is taken, for a token that the softmax rounds to 0."""


def head_loss(hidden_KND: Tensor, head_KVD: Tensor, target_KN: Tensor, chunk: int) -> Tensor:
    """Mean cross-entropy of each model, with gradients.

    The target's probability is read from the softmax, so in bfloat16 one token's loss is good to
    0.004 nats and the mean of a batch to far less; `token_losses` is exact.

    Args:
        hidden_KND: Result of `hidden_states`, in the type to compute in.
        head_KVD: The head, float32; its gradient is summed in float32.
        target_KN: Ids of the tokens to predict.
        chunk: Tokens of each model at a time; see `chunk_tokens`.

    Returns:
        Nats per token, shape (K,), float32.
    """
    apply: Callable[..., Tensor] = _HeadLoss.apply
    return apply(hidden_KND, head_KVD, target_KN, chunk)


@torch.no_grad()
def token_losses(hidden_KND: Tensor, head_KVD: Tensor, target_KN: Tensor, chunk: int) -> Tensor:
    """Cross-entropy of every token, without gradients.

    Args:
        hidden_KND: Result of `hidden_states`, in the type to compute in.
        head_KVD: The head, float32.
        target_KN: Ids of the tokens to predict.
        chunk: Tokens of each model at a time; see `chunk_tokens`.

    Returns:
        Nats, shape (K, N), float32.
    """
    weight_KVD = head_KVD.to(hidden_KND.dtype)
    parts = []
    for start in range(0, hidden_KND.shape[1], chunk):
        part = slice(start, start + chunk)
        logits_KCV = torch.bmm(hidden_KND[:, part], weight_KVD.transpose(1, 2))
        parts.append(
            functional.cross_entropy(
                logits_KCV.float().flatten(0, 1), target_KN[:, part].flatten(), reduction="none"
            ).view(len(logits_KCV), -1)
        )
    return torch.cat(parts, dim=1)
