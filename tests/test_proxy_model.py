"""The proxy model: equal to an independent one, stacked equal to single, loss equal to plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from curate.errors import RecipeError
from curate.proxy.loss import (
    LEAST_TOKENS,
    MOST_LOGITS,
    HeadChunk,
    HeadLoss,
    head_chunk,
)
from curate.proxy.model import hidden_states, initial_weights, weight_shapes
from curate.proxy.optimiser import OptimiserSettings
from curate.proxy.shape import PRESETS, Shape, find_preset
from curate.proxy.stack import Stack, StackSettings

CPU = torch.device("cpu")
SMALL = Shape(layers=2, width=32, heads=4, mlp=48, vocabulary=96)


def random_tokens(shape: Shape, models: int = 1, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, shape.vocabulary, (models, 3, 17)))


@pytest.mark.parametrize(
    ("name", "vocabulary", "expected"),
    [  # blocks and norms, with head, with embedding: RegMix's code; BiMix's base, tied
        ("1M", 50_432, (1.31e6, 14.2e6, 27.1e6)),
        ("60M", 50_432, (59.0e6, 97.7e6, 136.5e6)),
        ("bimix", 50_277, (84.9e6, 123.6e6, 123.6e6)),
    ],
)
def test_published_parameter_counts(
    name: str, vocabulary: int, expected: tuple[float, float, float]
) -> None:
    shape = PRESETS[name].sized(vocabulary)
    found = shape.block_parameters, shape.matmul_parameters, shape.parameters
    assert found == pytest.approx(expected, rel=0.003)


@pytest.mark.parametrize("name", ["nano", "micro"])
@pytest.mark.parametrize("tied", [True, False])
def test_counts_are_those_of_the_weights(name: str, tied: bool) -> None:
    shape = PRESETS[name].sized(500, tied)
    assert shape.vocabulary == 512
    assert shape.parameters == sum(int(np.prod(s)) for s in weight_shapes(shape).values())


def test_arithmetic_of_regmix_1m() -> None:
    # 6 x 14.2 M plus attention 6 x 2 x 256 x 2048 = 6.3 M
    assert PRESETS["1M"].sized(50_432).training_flops(2048) == pytest.approx(91.6e6, rel=1e-3)


def test_shapes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="does not split into 5 heads"):
        Shape(1, 64, 5, 8, 8)
    with pytest.raises(ValueError, match="at least 1"):
        Shape(0, 64, 4, 8, 8)
    with pytest.raises(RecipeError, match="no preset is called 'nanno'; did you mean 'nano'"):
        find_preset("nanno")


@pytest.mark.parametrize("tied", [True, False])
def test_equals_llama_of_transformers(tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    shape = Shape(2, 32, 4, 48, 96, tied)
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, rms_norm_eps=1e-5, rope_theta=10_000.0, tie_word_embeddings=tied,
        max_position_embeddings=64, attention_bias=False, mlp_bias=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    weights = initial_weights(shape, [5], CPU)
    rng = torch.Generator().manual_seed(1)
    for name in ("attention_norm", "mlp_norm", "final_norm"):
        weights[name] += 0.3 * torch.randn(weights[name].shape, generator=rng)
    own = {name: weight[0] for name, weight in weights.items()}
    state = {
        "model.embed_tokens.weight": own["head" if tied else "embedding"],
        "model.norm.weight": own["final_norm"],
        "lm_head.weight": own["head"],
    }
    for layer in range(2):
        query, key, value = own["qkv"][layer].T.chunk(3)
        gate, up = own["gate_up"][layer].T.chunk(2)
        prefix = f"model.layers.{layer}"
        state |= {
            f"{prefix}.self_attn.q_proj.weight": query,
            f"{prefix}.self_attn.k_proj.weight": key,
            f"{prefix}.self_attn.v_proj.weight": value,
            f"{prefix}.self_attn.o_proj.weight": own["attention_out"][layer].T,
            f"{prefix}.mlp.gate_proj.weight": gate,
            f"{prefix}.mlp.up_proj.weight": up,
            f"{prefix}.mlp.down_proj.weight": own["down"][layer].T,
            f"{prefix}.input_layernorm.weight": own["attention_norm"][layer],
            f"{prefix}.post_attention_layernorm.weight": own["mlp_norm"][layer],
        }
    theirs.load_state_dict(state)
    tokens = random_tokens(shape)
    with torch.no_grad():
        expected = theirs(tokens[0]).logits
        hidden = hidden_states(weights, tokens, shape)
        found = (hidden[0] @ own["head"].T).view(expected.shape)
    assert torch.allclose(found, expected, atol=1e-4)
    assert expected.abs().max() > 0.1  # it would not do if all were near zero


def test_a_position_sees_nothing_after_it() -> None:
    weights = initial_weights(SMALL, [0], CPU)
    tokens = random_tokens(SMALL)
    changed = tokens.clone()
    changed[:, :, 9:] = (changed[:, :, 9:] + 1) % SMALL.vocabulary
    first, second = (hidden_states(weights, t, SMALL).view(3, 17, 32) for t in (tokens, changed))
    assert torch.equal(first[:, :9], second[:, :9])
    assert not torch.allclose(first[:, 9:], second[:, 9:])


def test_a_stacked_model_is_the_model_alone() -> None:
    tokens = random_tokens(SMALL, models=3)
    stacked = hidden_states(initial_weights(SMALL, [7, 8, 9], CPU), tokens, SMALL)
    for model, seed in enumerate([7, 8, 9]):
        weights = initial_weights(SMALL, [seed], CPU)
        alone = hidden_states(weights, tokens[model : model + 1], SMALL)
        assert torch.allclose(stacked[model], alone[0], atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 51, 1000])
@pytest.mark.parametrize("group", [1, 2, 3])
def test_fused_loss_and_gradients_equal_plain_ones(chunk: int, group: int) -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 51, 32, generator=rng, requires_grad=True)
    head = torch.randn(3, 96, 32, generator=rng, requires_grad=True)
    target = torch.randint(0, 96, (3, 51), generator=rng)
    plain = torch.stack([
        functional.cross_entropy(hidden[k] @ head[k].T, target[k]) for k in range(3)
    ])  # fmt: skip
    expected = torch.autograd.grad(-2.5 * plain.sum(), (hidden, head))
    before = torch.randn(3, 96, 32, generator=rng)  # of an earlier part of the batch
    grad_head = before.clone()
    head_loss = HeadLoss("cpu", HeadChunk(group, chunk))
    fused, grad_hidden = head_loss.gradients(hidden, head, target, grad_head, -2.5)
    assert torch.allclose(fused, plain, rtol=1e-5)
    assert torch.allclose(grad_hidden, expected[0], atol=1e-5)
    assert torch.allclose(grad_head - before, expected[1], atol=1e-5)
    each = head_loss.token_losses(hidden, head, target)
    assert torch.allclose(each.mean(1), plain, rtol=1e-5)


def test_bfloat16_loss_and_gradients_are_near_the_exact_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 2000, 32, generator=rng).bfloat16()
    head = (0.3 * torch.randn(1, 96, 32, generator=rng)).bfloat16()
    target = torch.randint(0, 96, (1, 2000), generator=rng)
    exact = [tensor.double().requires_grad_() for tensor in (hidden, head)]
    loss = functional.cross_entropy((exact[0] @ exact[1].transpose(1, 2))[0], target[0])
    expected = torch.autograd.grad(loss, exact)
    grad_head = torch.zeros(1, 96, 32)
    head_loss = HeadLoss("cpu", HeadChunk(1, 500))
    low, grad_hidden = head_loss.gradients(hidden, head, target, grad_head, 1.0)
    assert float(low) == pytest.approx(float(loss.detach()), abs=2e-3)
    for found, true in zip((grad_hidden, grad_head), expected, strict=True):
        assert (found.double() - true).norm() < 0.015 * true.norm()


@pytest.mark.parametrize("tied", [pytest.param(True, marks=pytest.mark.slow), False])
def test_bfloat16_gradients_of_a_model_are_near_those_of_float64(tied: bool) -> None:
    """The whole gradient, against the plain formula in float64 at the same weights."""
    shape = Shape(2, 256, 8, 512, 2048, tied)
    settings = OptimiserSettings(1e-3, warmup_steps=0, clip=1e9)
    stack = Stack(StackSettings(shape, settings, CPU, torch.bfloat16), [3])
    with torch.no_grad():
        for weight in stack.weights.values():  # as bfloat16 holds them, so that both are the same
            weight.copy_(weight.bfloat16())
    stack.cast()
    exact = {
        name: weight.detach().double().requires_grad_() for name, weight in stack.weights.items()
    }
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 2048, (1, 8, 65)).astype(np.int32))
    hidden = hidden_states(exact, ids[:, :, :-1], shape)
    functional.cross_entropy(
        hidden[0] @ exact["head"][0].T, ids[0, :, 1:].flatten().long()
    ).backward()
    taken = {}
    step = stack.optimiser.step
    stack.optimiser.step = lambda: (
        taken.update({name: weight.grad.double() for name, weight in stack.weights.items()})
        or step()
    )
    stack.train_step(ids, 4)
    error = sum((taken[name] - weight.grad).square().sum() for name, weight in exact.items())
    whole = sum(weight.grad.square().sum() for weight in exact.values())
    assert (error / whole).sqrt() < 0.015


class WeightCasts(TorchDispatchMode):
    """Lists the shapes of weights that are cast from float32 to bfloat16."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.weights = {weight.shape for weight in stack.weights.values()}
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            low = (source.dtype, result.dtype) == (torch.float32, torch.bfloat16)
            if low and result.shape in self.weights:
                self.shapes.append(result.shape)
        return result


@pytest.mark.parametrize("micro_sequences", [1, 4])
def test_each_weight_is_cast_once_a_step(micro_sequences: int) -> None:
    optimiser = OptimiserSettings(1e-3, warmup_steps=2)
    stack = Stack(StackSettings(SMALL, optimiser, CPU, torch.bfloat16), range(2))
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 96, (2, 4, 10)).astype(np.int32))
    with WeightCasts(stack) as casts:
        stack.train_step(ids, micro_sequences)
    looked_up = {"embedding"}  # rows of it are cast, which are fewer
    assert sorted(casts.shapes) == sorted(
        weight.shape for name, weight in stack.weights.items() if name not in looked_up
    )


@pytest.mark.parametrize(
    ("models", "tokens", "vocabulary"),
    [(1, 1, 10**6), (8, 131_072, 50_432), (64, 2048, 8192), (7, 5000, 50_432), (16, 512, 1024)],
)
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_chunks_cover_all_tokens_once_and_are_large(
    models: int, tokens: int, vocabulary: int, kind: str
) -> None:
    chunk = head_chunk(models, tokens, vocabulary, kind)
    covered = np.zeros((models, tokens), int)
    for part in chunk.parts(models, tokens):
        covered[part] += 1
    assert (covered == 1).all()
    assert chunk.tokens > min(tokens, LEAST_TOKENS[kind]) / 2  # half, where evened out
    logits = chunk.models * chunk.tokens * vocabulary
    assert logits <= max(MOST_LOGITS[kind] * 1.05, min(tokens, LEAST_TOKENS[kind]) * vocabulary)
