"""The exceptions of curate: any user-fixable error is a `CurateError`.

```
CurateError                 base; the command line prints it in one line and exits with 2
├── RecipeError             the recipe is wrong: names the field and what to type instead
├── InputError              a source file is wrong: names the file, and the line where there is one
├── TokenizerError          a tokenizer is absent, or failed its self-test
├── MissingEvidence         a method lacks what it needs: names the command that makes it
├── FitError                a law cannot be fitted to these runs: says what would be enough
├── InfeasiblePlan          supply cannot meet the plan: names the domain that binds, and ways out
├── ShardError              a built dataset is incomplete, damaged, or not written by curate
└── EngineError             the machine is at fault: a worker died, or memory or a disk is lacking
```

Wrong arrays passed to pure maths raise `ValueError`; broken invariants are assertions.
"""


class CurateError(Exception):
    """Any user-fixable error; the message says what is wrong, what is possible, what to type."""

    def __init__(self, message: str = "") -> None:
        """Keep the message in one line, even if it repeats a name with line breaks."""
        super().__init__(message.replace("\r", "\\r").replace("\n", "\\n"))


class RecipeError(CurateError):
    """The recipe asks for something that does not exist or contradicts itself."""


class InputError(CurateError):
    """A source file cannot be read as the recipe says."""


class TokenizerError(CurateError):
    """A tokenizer cannot be loaded, or does not behave as the recipe says."""


class MissingEvidence(CurateError):  # noqa: N818 - a name others rely on
    """A mixing method needs evidence that has not been made yet."""


class FitError(CurateError):
    """A run table is wrong, or cannot determine the requested law."""


class InfeasiblePlan(CurateError):  # noqa: N818 - a name others rely on
    """Weights, supply and budget cannot all hold."""


class ShardError(CurateError):
    """A built dataset is incomplete, damaged, or was not written by curate."""


class EngineError(CurateError):
    """The machine is at fault: a worker process ended without a result, or memory is lacking."""
