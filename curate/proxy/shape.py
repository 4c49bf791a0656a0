"""Sizes, presets, parameter counts and arithmetic of a proxy model; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from curate.runtime.registry import Registry

VOCABULARY_MULTIPLE = 64
"""The head's rows are padded to a multiple of this, as GPU matrix units work in such tiles."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder: RMSNorm, rotary positions, full attention, SwiGLU, no biases."""

    layers: int
    width: int
    heads: int
    mlp: int
    """Inner width of the SwiGLU."""
    vocabulary: int
    """Rows of the embedding and of the head."""
    tied: bool = False
    """Whether one matrix serves as embedding and head."""

    def __post_init__(self) -> None:
        """Raise `ValueError` where the sizes do not fit together."""
        if min(self.layers, self.width, self.heads, self.mlp, self.vocabulary) < 1:
            raise ValueError(f"every size must be at least 1, got {self}")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} does not split into {self.heads} heads of even width"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def block_parameters(self) -> int:
        """Parameters of blocks and norms, without embedding and head.

        Example:
            >>> PRESETS["1M"].sized(50_432).block_parameters
            1312000
        """
        matrices = 4 * self.width**2 + 3 * self.width * self.mlp
        return self.layers * (matrices + 2 * self.width) + self.width

    @property
    def matmul_parameters(self) -> int:
        """Parameters that multiply every token: blocks, norms, head; `params` in `runs.csv`."""
        return self.block_parameters + self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All parameters; an untied embedding counts beside the head."""
        return self.matmul_parameters + (0 if self.tied else self.vocabulary * self.width)

    def training_flops(self, sequence_length: int) -> float:
        """Floating-point operations to train on one token, including the head.

        Six for each parameter that is multiplied (norms are too few to matter), and six times
        layers x width x sequence length for causal attention: scores and values are two products
        over half of the sequence on average, forwards once and backwards twice.
        """
        return 6.0 * self.matmul_parameters + 6.0 * self.layers * self.width * sequence_length


@dataclass(frozen=True, slots=True)
class Training:
    """Training settings of a preset, for what the recipe leaves open."""

    sequence_length: int
    batch_sequences: int
    tokens: int
    learning_rate: float
    """Rate at width 256; see `optimiser`."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A shape for any vocabulary, and how models of it are trained."""

    name: str
    summary: str
    """A phrase for `curate proxy --help` and the documentation."""
    training: Training
    layers: int
    width: int
    heads: int
    mlp: int
    tied: bool = False

    def sized(self, vocabulary: int, tied: bool | None = None) -> Shape:
        """Return the shape for a tokenizer of `vocabulary` ids, rows padded for the hardware.

        Args:
            vocabulary: Ids of the tokenizer.
            tied: Overrides the preset's choice; None keeps it.
        """
        rows = -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        tie = self.tied if tied is None else tied
        return Shape(
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            mlp=self.mlp,
            vocabulary=rows,
            tied=tie,
        )


SMALL = Training(128, 8, 250_000, 1e-3)
"""Mean loss of nano on three domains after 250k tokens, 1,024 ids: 5.24 nats at a rate of 5e-4,
5.00 at 1e-3, 5.04 at 2e-3, 5.07 at 4e-3, 5.20 at 8e-3; micro takes the same rate unmeasured."""

LARGE = Training(2048, 512, 1_000_000_000, 4e-4)
"""Settings that RegMix uses for its 1M."""

PRESETS: Registry[Preset] = Registry(
    "preset",
    (
        Preset(
            "nano",
            "trains in seconds on a CPU; for tests and first looks",
            SMALL,
            layers=2, width=64, heads=4, mlp=160,
        ),
        Preset("micro", "a CPU's proxy", SMALL, layers=2, width=128, heads=4, mlp=320),
        Preset("1M", "RegMix's 1M (Liu et al. 2024)", LARGE, layers=2, width=256, heads=8, mlp=512),
        Preset("10M", "between RegMix's two", LARGE, layers=6, width=384, heads=6, mlp=1024),
        Preset(
            "60M", "RegMix's 60M (Liu et al. 2024)", LARGE, layers=10, width=768, heads=8, mlp=1536
        ),
        Preset(
            "bimix",
            "like BiMix's base (Ge et al. 2024)",
            LARGE,
            layers=12, width=768, heads=12, mlp=2048, tied=True,
        ),
        Preset("500M", "one step below a target", LARGE, layers=24, width=1280, heads=20, mlp=3456),
    ),
)  # fmt: skip
"""Presets: RegMix's as in its code, BiMix's with a SwiGLU of as many parameters as its MLP."""


def find_preset(name: str) -> Preset:
    """Return the preset that `proxy.preset` names.

    Raises:
        RecipeError: There is no such preset; the message names the nearest.
    """
    return PRESETS.find(name, "proxy.preset")
