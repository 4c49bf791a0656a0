"""The forward pass, for K sets of parameters at once.

Weights have a leading axis of models and every product is batched over it. Nothing mixes models,
so a model in a stack does what it would do alone. The blocks are those of Llama (RMSNorm, rotary
positions by halves, causal attention, SwiGLU); the tests compare with it.

Shapes: K models, B sequences, T positions, N = B * T, D width, H heads, E head width, F SwiGLU
width, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from curate.proxy.shape import Shape

NORM_EPSILON = 1e-5
ROTARY_BASE = 10_000.0

Weights = dict[str, Tensor]
"""Stacked parameters by name; see `weight_shapes`."""

MATRICES = ("qkv", "attention_out", "gate_up", "down", "head")
"""Weights that tokens are multiplied with; the tied embedding is named `head` too."""


def weight_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter of one model, without the axis of models.

    Layers share a tensor, since a few large tensors are quicker to update than many small ones.
    """
    D, F, V, L = shape.width, shape.mlp, shape.vocabulary, shape.layers
    shapes: dict[str, tuple[int, ...]] = {
        "head": (V, D),
        "attention_norm": (L, D),
        "qkv": (L, D, 3 * D),
        "attention_out": (L, D, D),
        "mlp_norm": (L, D),
        "gate_up": (L, D, 2 * F),
        "down": (L, F, D),
        "final_norm": (D,),
    }
    if not shape.tied:
        shapes["embedding"] = (V, D)
    return shapes


def initial_weights(shape: Shape, seeds: Sequence[int], device: torch.device) -> Weights:
    """Draw random weights; a seed gives the same model in every stack and on every device.

    Weights are normal with deviation 1 / sqrt(inputs); those that write to the residual stream are
    also divided by sqrt(2 * layers). Embeddings have 0.02 * sqrt(256 / width), which keeps the
    logits of a tied model small. Norms start at one.

    Args:
        shape: Sizes that all models share.
        seeds: shape (K,), one for each model.
        device: Device of the weights.

    Returns:
        float32 weights, drawn on the CPU so that they do not depend on the device.
    """
    weights = {
        name: torch.empty((len(seeds), *sizes), dtype=torch.float32, device=device)
        for name, sizes in weight_shapes(shape).items()
    }
    for model, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for name in sorted(weights):  # sorted: the order of the draws is part of what a seed means
            weight = weights[name][model]
            if name.endswith("norm"):
                weight.fill_(1.0)
                continue
            deviation = _deviation(name, shape)
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)
    return weights


def _deviation(name: str, shape: Shape) -> float:
    if name in ("embedding", "head"):
        return 0.02 * math.sqrt(256 / shape.width)
    inputs = shape.mlp if name == "down" else shape.width
    residual = math.sqrt(2 * shape.layers) if name in ("down", "attention_out") else 1.0
    return 1 / math.sqrt(inputs) / residual


def hidden_states(weights: Weights, tokens_KBT: Tensor, shape: Shape) -> Tensor:
    """Compute the last hidden states, normalised, which the head multiplies.

    Args:
        weights: Parameters of K models, in the type to compute in.
        tokens_KBT: Token ids; each position sees itself and the positions before it.
        shape: Sizes that all models share.

    Returns:
        Shape (K, N, D), in the type of the weights.
    """
    K, B, T = tokens_KBT.shape
    embedding_KVD = weights["head"] if shape.tied else weights["embedding"]
    # One lookup for all models: their embeddings are rows of one tall matrix, K * V by D.
    first_K = torch.arange(K, device=tokens_KBT.device) * shape.vocabulary
    rows_KN = tokens_KBT.reshape(K, B * T) + first_K[:, None]
    x_KND = functional.embedding(rows_KN, embedding_KVD.reshape(-1, shape.width))
    rotary = _rotary(T, shape.head_width, x_KND)
    layers = {
        name: weights[name].unbind(1)
        for name in ("attention_norm", "qkv", "attention_out", "mlp_norm", "gate_up", "down")
    }
    for layer in range(shape.layers):
        y_KND = _normalise(x_KND, layers["attention_norm"][layer])
        mixed_KND = _attention(torch.bmm(y_KND, layers["qkv"][layer]), rotary, (K, B, T), shape)
        x_KND = x_KND + torch.bmm(mixed_KND, layers["attention_out"][layer])
        y_KND = _normalise(x_KND, layers["mlp_norm"][layer])
        gate_KNF, up_KNF = torch.bmm(y_KND, layers["gate_up"][layer]).chunk(2, dim=-1)
        x_KND = x_KND + torch.bmm(functional.silu(gate_KNF) * up_KNF, layers["down"][layer])
    return _normalise(x_KND, weights["final_norm"])


def _normalise(x_KND: Tensor, gain_KD: Tensor) -> Tensor:
    return functional.rms_norm(x_KND, x_KND.shape[-1:], eps=NORM_EPSILON) * gain_KD[:, None]


def _rotary(T: int, E: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotations, shape (T, E), in the type of `like`.

    Su et al. 2021, arXiv:2104.09864, Eq. 15; pairs are (i, i + E / 2), as in Llama. Angles are
    float32, since bfloat16 cannot tell neighbouring positions apart beyond 256.
    """
    rate = ROTARY_BASE ** (-torch.arange(0, E, 2, dtype=torch.float32, device=like.device) / E)
    angle_TE = torch.arange(T, dtype=torch.float32, device=like.device)[:, None] * rate.repeat(2)
    return angle_TE.cos().to(like.dtype), angle_TE.sin().to(like.dtype)


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cosine_TE, sine_TE = rotary
    low, high = x.chunk(2, dim=-1)
    return x * cosine_TE + torch.cat((-high, low), dim=-1) * sine_TE


def _attention(
    qkv: Tensor, rotary: tuple[Tensor, Tensor], sizes: tuple[int, int, int], shape: Shape
) -> Tensor:
    """Causal attention of each sequence; models and sequences form one batch."""
    K, B, T = sizes
    H, E = shape.heads, shape.head_width
    split = qkv.view(K * B, T, 3, H, E).permute(2, 0, 3, 1, 4)
    query, key = _rotate(split[:2], rotary)
    mixed = functional.scaled_dot_product_attention(query, key, split[2], is_causal=True)
    return mixed.transpose(1, 2).reshape(K, B * T, H * E)
