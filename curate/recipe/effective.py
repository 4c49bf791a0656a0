"""Write a recipe as it took effect, so that it can be built again from wherever it is kept.

Overrides and aliases are applied, keys with their default are left out, and `base` names the
directory that relative paths start from. Credentials in URLs are left out, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml
from msgspec.structs import replace

from curate import __version__
from curate.recipe.structs import LoadedRecipe, without_defaults

PLAIN = re.compile(r"(?!(null|true|false|yes|off)$)[a-z_]{3,}", re.IGNORECASE)
"""Text that no version of YAML reads as anything but text."""

PASSWORD = re.compile(r"(?<=://)([^/?#@:]*):[^/?#@]*@")
ACCESS = re.compile(
    r"([?&][^=&#]*(?:key|token|secret|sig|credential|password|policy)[^=&#]*=)[^&#]*", re.IGNORECASE
)
"""Parameters of URLs that give access, such as a signature."""


class _RecipeDumper(yaml.SafeDumper):
    """Quotes all text that YAML could read as something else."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_RecipeDumper.add_representer(str, _text)


def effective_text(loaded: LoadedRecipe, leave_out: Sequence[str] = ()) -> str:
    """Return a recipe as YAML that `load` reads to the same recipe from any directory.

    Args:
        loaded: The recipe, with overrides applied.
        leave_out: Keys of the top level that someone else will write.
    """
    loaded = loaded.stage_of or loaded
    value = without_defaults(replace(loaded.recipe, base=str(loaded.base.resolve())))
    value = {key: item for key, item in value.items() if key not in leave_out}
    body = yaml.dump(
        _without_credentials(value),
        Dumper=_RecipeDumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    return f"# Built by curate {__version__}, with every change from the command line.\n{body}"


def _without_credentials(value: Any) -> Any:
    """Remove passwords and signatures from URLs, at any depth.

    Example:
        >>> _without_credentials(["https://me:secret@host/a?sig=x&page=2", "a:b@c"])
        ['https://me@host/a?sig=REMOVED&page=2', 'a:b@c']
    """
    if isinstance(value, dict):
        return {key: _without_credentials(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_credentials(item) for item in value]
    if not isinstance(value, str) or "://" not in value:
        return value
    return ACCESS.sub(r"\1REMOVED", PASSWORD.sub(r"\1@", value))
