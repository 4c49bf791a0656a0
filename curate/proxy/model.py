"""The forward pass, for K sets of parameters at once.

Weights have a leading axis of models and every product is batched over it. Nothing mixes models,
so a model in a stack does what it would do alone. The blocks are those of Llama (RMSNorm, rotary
positions by halves, causal attention, SwiGLU); the tests compare with it. Where a product takes
little arithmetic for each value, passes over the tokens count: gains are folded into the matrix
that follows them, and two functions have gradients of their own that touch each value less often.

Shapes: K models, B sequences, T positions, N = B * T, D width, H heads, E head width, F SwiGLU
width, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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
        weights: Parameters of K models, in the type to compute in; the embedding (or the head, if
            tied) may be in another.
        tokens_KBT: Token ids; each position sees itself and the positions before it.
        shape: Sizes that all models share.

    Returns:
        Shape (K, N, D), in the type of the weights.
    """
    K, B, T = tokens_KBT.shape
    embedding_KVD = weights["head"] if shape.tied else weights["embedding"]
    # One lookup for all models: their embeddings are rows of one tall matrix, K * V by D.
    first_K = torch.arange(K, dtype=tokens_KBT.dtype, device=tokens_KBT.device) * shape.vocabulary
    rows_KN = tokens_KBT.reshape(K, B * T) + first_K[:, None]
    x_KND = functional.embedding(rows_KN, embedding_KVD.reshape(-1, shape.width))
    x_KND = x_KND.to(weights["qkv"].dtype)
    rotary = _rotary(T, shape, x_KND)
    layers = {
        name: weights[name].unbind(1)
        for name in ("attention_norm", "qkv", "attention_out", "mlp_norm", "gate_up", "down")
    }
    for layer in range(shape.layers):
        qkv_KDQ = _with_gain(layers["qkv"][layer], layers["attention_norm"][layer])
        if rotary[0].is_complex():
            qkv_KDQ = _side_by_side(qkv_KDQ, shape.heads)
        mixed_KND = _attention(torch.bmm(_normalise(x_KND), qkv_KDQ), rotary, (K, B, T), shape)
        x_KND = torch.baddbmm(x_KND, mixed_KND, layers["attention_out"][layer])
        gate_up_KDG = _with_gain(layers["gate_up"][layer], layers["mlp_norm"][layer])
        inner_KNF = _gated(torch.bmm(_normalise(x_KND), gate_up_KDG))
        x_KND = torch.baddbmm(x_KND, inner_KNF, layers["down"][layer])
    return _normalise(x_KND) * weights["final_norm"][:, None]


def _normalise(x_KND: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = _Normalised.apply
    return apply(x_KND)


class _Normalised(torch.autograd.Function):
    """Division by the root mean square; keeps the result, which the next product keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = norm.square_().div_(x.shape[-1]).add_(NORM_EPSILON).rsqrt_()
        out = torch.mul(x, inverse, out=torch.empty_like(x))
        ctx.save_for_backward(out, inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # With y = x r, the gradient is r (g - y mean(g y)).
        out, inverse = ctx.saved_tensors
        along = (grad * out).sum(-1, keepdim=True, dtype=inverse.dtype).div_(-out.shape[-1])
        return torch.addcmul(grad, out, along, out=torch.empty_like(grad)).mul_(inverse)


def _with_gain(matrix_KDX: Tensor, gain_KD: Tensor) -> Tensor:
    """Fold the gain of a norm into the matrix that follows; there are more tokens than columns."""
    return matrix_KDX * gain_KD[:, :, None]


Rotary = tuple[Tensor, Tensor]
"""Cosines and sines; or, in float32, what turns pairs as complex numbers, and what turns back."""


def _rotary(T: int, shape: Shape, like: Tensor) -> Rotary:
    """Return the rotations of every position, shape (T, H, E / 2), which suit the type of `like`.

    Su et al. 2021, arXiv:2104.09864, Eq. 15; pairs are (i, i + E / 2), as in Llama. Angles are
    float32, since bfloat16 cannot tell neighbouring positions apart beyond 256. Heads repeat: then
    all queries of a position are one stretch of memory, and its rotations another.
    """
    E = shape.head_width
    rate = ROTARY_BASE ** (-torch.arange(0, E, 2, dtype=torch.float32, device=like.device) / E)
    angle = torch.arange(T, dtype=torch.float32, device=like.device)[:, None, None] * rate
    angle = angle.repeat(1, shape.heads, 1)
    if like.dtype == torch.float32:
        turn = torch.polar(torch.ones_like(angle), angle)
        return turn, turn.conj_physical()
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _side_by_side(qkv_KDQ: Tensor, H: int) -> Tensor:
    """Reorder columns so that a pair's two are neighbours, that is, a complex number.

    Products of queries and keys stay what they are, since both are reordered alike.
    """
    K, D, _ = qkv_KDQ.shape
    pairs = qkv_KDQ[:, :, : 2 * D].view(K, D, 2 * H, 2, -1).transpose(3, 4).reshape(K, D, 2 * D)
    return torch.cat((pairs, qkv_KDQ[:, :, 2 * D :]), dim=2)


def _rotate(heads: Tensor, out: Tensor, rotary: Rotary, sign: int) -> None:
    """Rotate pairs by their angles, or back if `sign` is -1."""
    if rotary[0].is_complex():
        pairs, turned = (torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)) for x in (heads, out))
        torch.mul(pairs, rotary[0 if sign > 0 else 1], out=turned)
        return
    cosine, sine = rotary
    (low, high), (out_low, out_high) = heads.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(low, cosine, out=out_low).addcmul_(high, sine, value=-sign)
    torch.mul(high, cosine, out=out_high).addcmul_(low, sine, value=sign)


class _Rotated(torch.autograd.Function):
    """Split products into rotated queries and keys, and values, shape (sequences, H, T, E) each."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, first: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(first, second)
        rotated = torch.empty_like(qkv[:, :, :2])
        _rotate(qkv[:, :, :2], rotated, (first[:, None], second[:, None]), 1)
        query, key = rotated.permute(2, 0, 3, 1, 4).unbind()
        return query, key, qkv[:, :, 2].transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None, None]:
        sequences, H, T, E = query.shape
        grad = query.new_empty((sequences, T, 3, H, E))
        for part, rotated in enumerate((query, key)):
            _rotate(rotated.transpose(1, 2), grad[:, :, part], ctx.saved_tensors, -1)
        grad[:, :, 2] = value.transpose(1, 2)
        return grad, None, None


def _attention(qkv: Tensor, rotary: Rotary, sizes: tuple[int, int, int], shape: Shape) -> Tensor:
    """Causal attention of each sequence; models and sequences form one batch."""
    K, B, T = sizes
    H, E = shape.heads, shape.head_width
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Rotated.apply
    query, key, value = apply(qkv.view(K * B, T, 3, H, E), *rotary)
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.transpose(1, 2).reshape(K, B * T, H * E)


class _Gated(torch.autograd.Function):
    """SwiGLU's product; its backward pass writes both halves of one gradient."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        active = functional.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, active = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.mul(grad, active, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return out


def _gated(gate_up_KNG: Tensor) -> Tensor:
    apply: Callable[..., Tensor] = _Gated.apply
    return apply(gate_up_KNG)
