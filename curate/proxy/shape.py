"""What a proxy model is: sizes, presets, parameter counts, arithmetic. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from curate.errors import RecipeError
from curate.runtime.registry import nearest_hint

VOCABULARY_MULTIPLE = 64
"""The head's rows are padded to this, which is what matrix units of GPUs want."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder: RMSNorm, rotary positions, full attention, SwiGLU; no biases."""

    layers: int
    width: int
    heads: int
    mlp: int
    """Inner width of the SwiGLU."""
    vocabulary: int
    """Rows of embedding and head."""
    tied: bool = False
    """One matrix is embedding and head."""

    def __post_init__(self) -> None:
        """Raise `ValueError` where the sizes do not go together."""
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
        """Parameters of blocks and norms: neither embedding nor head.

        Example:
            >>> PRESETS["1M"].sized(50_432).block_parameters
            1312000
        """
        matrices = 4 * self.width**2 + 3 * self.width * self.mlp
        return self.layers * (matrices + 2 * self.width) + self.width

    @property
    def matmul_parameters(self) -> int:
        """Blocks, norms and head: what every token is multiplied with; `params` of `runs.csv`."""
        return self.block_parameters + self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All of them; an untied embedding counts beside the head."""
        return self.matmul_parameters + (0 if self.tied else self.vocabulary * self.width)

    def training_flops(self, sequence_length: int) -> float:
        """Floating-point operations to train on one token, the head counted.

        Six for each parameter that is multiplied (norms are too few to matter), and six times
        layers x width x sequence length for causal attention: scores and values are two products
        over half of the sequence on average, forwards once and backwards twice.
        """
        return 6.0 * self.matmul_parameters + 6.0 * self.layers * self.width * sequence_length


@dataclass(frozen=True, slots=True)
class Training:
    """How models of a preset are trained where the recipe says nothing else."""

    sequence_length: int
    batch_sequences: int
    tokens: int
    learning_rate: float
    """At width 256; see `optimiser`."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A shape for any vocabulary."""

    layers: int
    width: int
    heads: int
    mlp: int
    training: Training
    summary: str
    tied: bool = False

    def sized(self, vocabulary: int, tied: bool | None = None) -> Shape:
        """The shape for a tokenizer of `vocabulary` ids, padded for the machine.

        Args:
            vocabulary: Ids of the tokenizer.
            tied: Instead of the preset's choice.
        """
        rows = -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        tie = self.tied if tied is None else tied
        return Shape(self.layers, self.width, self.heads, self.mlp, rows, tie)


SMALL = Training(128, 8, 250_000, 1e-3)
"""Mean loss of nano on three domains after 250k tokens, 1,024 ids: 5.24 nats at a rate of 5e-4,
5.00 at 1e-3, 5.04 at 2e-3, 5.07 at 4e-3, 5.20 at 8e-3; micro takes the same rate unmeasured."""

LARGE = Training(2048, 512, 1_000_000_000, 4e-4)
"""RegMix's own settings for its 1M."""

PRESETS = {
    "nano": Preset(2, 64, 4, 160, SMALL, "trains in seconds on a CPU; for tests and first looks"),
    "micro": Preset(2, 128, 4, 320, SMALL, "a CPU's proxy"),
    "1M": Preset(2, 256, 8, 512, LARGE, "RegMix's 1M (Liu et al. 2024)"),
    "10M": Preset(6, 384, 6, 1024, LARGE, "between RegMix's two"),
    "60M": Preset(10, 768, 8, 1536, LARGE, "RegMix's 60M (Liu et al. 2024)"),
    "bimix": Preset(12, 768, 12, 2048, LARGE, "like BiMix's base (Ge et al. 2024)", tied=True),
    "500M": Preset(24, 1280, 20, 3456, LARGE, "one step below a target"),
}
"""By name; RegMix's as its code has them, BiMix's with SwiGLU of as many parameters as its MLP."""


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        RecipeError: There is none; names the nearest.
    """
    if name in PRESETS:
        return PRESETS[name]
    hint = nearest_hint(name, PRESETS)
    raise RecipeError(
        f"proxy.preset: no preset is called '{name}'{hint} (known: {', '.join(PRESETS)})"
    )
