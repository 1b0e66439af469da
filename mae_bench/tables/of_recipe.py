"""Which table shows a recipe's runs."""

from __future__ import annotations

from mae_bench.tables.definitions import definitions
from tasks.recipe import Recipe


def table_of(recipe: Recipe) -> str | None:
    """The table that shows a recipe's runs; None where there is none.

    It is the first of the recipe's task and protocol, unless one of them asks for recipes such as this (`Definition.recipes`).
    """
    fitting = [d for d in definitions() if d.task == recipe.task and recipe.protocol in d.protocols]
    asked = [d for d in fitting if d.recipes is not None and d.recipes(recipe)]
    chosen = asked or [d for d in fitting if d.recipes is None]
    return chosen[0].name if chosen else None
