"""Keys of a recipe's `mixture` that a method reads, and those that it would ignore.

A method's row declares them (`Method.keys`, `Method.requires`). A key that the method does not read
is refused before any data is read, and so is one that another key makes idle, so that nothing in a
recipe is without effect. `tests/test_mixture_keys.py` holds every declaration to what it does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace as with_fields

from curate.errors import MissingEvidence, RecipeError
from curate.mixture.methods import METHODS
from curate.mixture.request import NEEDS_EVIDENCE, Method, check_replicates
from curate.recipe import EvidenceRecipe, MixtureRecipe, ProxyRecipe

EVIDENCE = tuple(field.name for field in msgspec.structs.fields(EvidenceRecipe))

UNREAD_BY_EXPERTS = ("runs", "mixtures", "seeds", "repetition")
"""Keys of proxies that say which mixtures to train and how often; experts are one a domain."""


def mixture_keys() -> list[str]:
    """List the keys of `mixture`, with those of `mixture.evidence` in place of the latter."""
    fields = [field.name for field in msgspec.structs.fields(MixtureRecipe)]
    return [
        key
        for field in fields
        for key in ([f"evidence.{part}" for part in EVIDENCE] if field == "evidence" else [field])
    ]


def given_keys(mixture: MixtureRecipe) -> list[str]:
    """List the keys that a recipe sets to something else than their default.

    Example:
        >>> given_keys(MixtureRecipe(method="olmix", kl=0.1, trust_region=True))
        ['method', 'kl']
    """
    default = MixtureRecipe()
    return [key for key in mixture_keys() if _value(mixture, key) != _value(default, key)]


def readers(key: str) -> list[str]:
    """List the methods that read a key of `mixture`."""
    return [name for name, method in METHODS.items() if key in method.keys]


def check_keys(mixture: MixtureRecipe, method: Method, also: Collection[str] = ()) -> None:
    """Refuse keys that the method would ignore, and the lack of those that it needs.

    Args:
        mixture: The recipe's section.
        method: The method; the section's own is ignored.
        also: Keys that have an effect beside the method, on the command that runs.

    Raises:
        RecipeError: A key would have no effect, or a setting is missing; names the key, the method
            and the methods that read it.
        MissingEvidence: The method needs runs or experts, which nothing names or makes.
    """
    for key, problem in idle_keys(mixture, method).items():
        if key not in also:
            raise RecipeError(f"mixture.{key}: {problem}")
    given = given_keys(mixture)
    required = dict(method.requires)
    if method.evidence is not None:
        required = {f"evidence.{method.evidence}": NEEDS_EVIDENCE[method.evidence], **required}
    for key, message in required.items():
        made = key == f"evidence.{method.evidence}" and "evidence.proxy" in given
        if key not in given and not made:
            kind = MissingEvidence if key.startswith("evidence.") else RecipeError
            raise kind(message.replace("METHOD", method.name))
    if method.evidence == "runs" and mixture.replicates:
        check_replicates(mixture.replicates)


def idle_keys(mixture: MixtureRecipe, method: Method) -> dict[str, str]:
    """List the keys that are given and would have no effect, each with the reason and a remedy.

    Args:
        mixture: The recipe's section.
        method: The method; the section's own is ignored.

    Example:
        >>> idle_keys(MixtureRecipe(level="token"), METHODS["natural"])
        {'level': 'method natural does not read it; mde and mixmin do. Remove it, or set \
mixture.method'}
    """
    given = given_keys(mixture)
    idle = {
        key: f"method {method.name} does not read it; {_listed(readers(key))} "
        f"{'does' if len(readers(key)) == 1 else 'do'}. Remove it, or set mixture.method"
        for key in given
        if key not in method.keys
    }
    pulls = method.pulls if mixture.kl is None else mixture.kl != 0
    if "prior" in method.keys and "prior" in given and not (pulls or method.prior_always):
        idle["prior"] = (
            f"no effect with method {method.name} while mixture.kl is 0; set mixture.kl, such as "
            "0.05, or remove it"
        )
    if mixture.kl == "auto" and "kl" in method.keys and not method.chooses_kl:
        choosers = _listed(name for name, row in METHODS.items() if row.chooses_kl)
        idle["kl"] = (
            f"auto needs runs to leave out and an optimum, which method {method.name} lacks; "
            f"{choosers} have both. Set a number, or mixture.method"
        )
    objective = mixture.objective
    if method.evidence == "experts" and not isinstance(objective, str):
        for part, value in (("weights", "noise"), ("against", "best_run")):
            if getattr(objective, part) == value:
                idle["objective"] = (
                    f"{part}: {value} needs training runs, and method {method.name} has experts; "
                    "take another objective, or set mixture.method"
                )
    if "law" in method.keys and "evidence.experts" in given:
        from curate.laws.forms.expert_regression import INFORMED

        if mixture.law not in INFORMED:
            idle["evidence.experts"] = (
                f"law {mixture.law} does not read it; {_listed(INFORMED)} do. Remove it, or set "
                "mixture.law"
            )
    if "evidence.alike" in method.keys and "evidence.alike" in given:
        law = mixture.law if "law" in method.keys else getattr(method.prefer, "law", None)
        if law != "joint":
            idle["evidence.alike"] = (
                f"only law joint reads it, and method {method.name} fits "
                f"{law or 'another'}. Remove it, or set mixture.method: joint"
            )
    for key in ("evidence.fill", "evidence.absent_domains", "evidence.became", "evidence.stage"):
        if key in given and key not in idle and "evidence.runs" not in given:
            idle[key] = "no run table is named; name it in mixture.evidence.runs, or remove the key"
    if "evidence.proxy" in given and "evidence.proxy" not in idle:
        idle |= _idle_proxies(mixture, method)
    return idle


def without_idle(mixture: MixtureRecipe, method: Method, keys: Iterable[str]) -> MixtureRecipe:
    """Return the section for another method, with these keys at their defaults.

    Args:
        mixture: The recipe's section.
        method: The method that takes the place of the recipe's.
        keys: From `idle_keys`.
    """
    changed = with_fields(mixture, method=method.name)
    for key in keys:
        changed = _with_default(changed, key.split("."))
    return changed


def _with_default(section: msgspec.Struct, key: Sequence[str]) -> Any:
    """Return the section with one key, dotted into its sections, at its default."""
    first, *rest = key
    value = getattr(section, first)
    if rest and value is not None:
        return with_fields(section, **{first: _with_default(value, rest)})
    return with_fields(section, **{first: getattr(type(section)(), first)})


def _idle_proxies(mixture: MixtureRecipe, method: Method) -> dict[str, str]:
    """List what is idle in `mixture.evidence.proxy`, which the method reads."""
    evidence = mixture.evidence
    assert evidence is not None and evidence.proxy is not None, "there are proxies"
    if getattr(evidence, str(method.evidence)) is not None:
        return {
            "evidence.proxy": f"nothing to train, since mixture.evidence.{method.evidence} names a "
            "file; keep one. For `curate proxy` and `curate validate`, move the small models to "
            "the recipe's proxy section"
        }
    proxy, default, idle = evidence.proxy, ProxyRecipe(), {}
    if method.evidence == "experts":
        others = _listed(name for name, row in METHODS.items() if row.evidence == "runs")
        idle = {
            f"evidence.proxy.{key}": f"method {method.name} does not read it, since its experts "
            f"are one model a domain; {others} do. Remove it, or set mixture.method"
            for key in UNREAD_BY_EXPERTS
            if getattr(proxy, key) != getattr(default, key)
        }
    return idle


def _value(mixture: MixtureRecipe, key: str) -> object:
    section, _, part = key.partition(".")
    value = getattr(mixture, section)
    if not part:
        return value
    return getattr(EvidenceRecipe() if value is None else value, part)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
