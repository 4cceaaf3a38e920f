"""What answers cost: a file of prices and upstream's usage → an exact amount. Pure, but for the reading of the file.

The file is JSON, or TOML where its name ends with .toml:

    {"version": "2026-11", "currency": "USD",
     "models": {"gpt-4o": {"prompt": 2.5, "cached": 1.25, "completion": 10}}}

Prices are for a million tokens. `cached` (tokens of the prompt that upstream had in its cache) costs what `prompt` does
where it is left out, `reasoning` (tokens of the completion that the client does not see) what `completion` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from workernode.cached_tokens import cached_tokens
from workernode.usage import token_count

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LARGEST_FILE = 1024 * 1024  # bytes
MILLION = 1_000_000
MOST_DECIMALS = 9  # of a price: amounts are then exact within the 28 digits of a Decimal


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The prices of one model, for a million tokens each."""

    prompt: Decimal
    completion: Decimal
    cached: Decimal
    reasoning: Decimal


@dataclass(frozen=True, slots=True)
class Cost:
    """What one answer cost."""

    amount: Decimal
    currency: str
    version: str  # of the prices


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of all models."""

    version: str
    currency: str
    models: Mapping[str, ModelPrice]

    def cost(self, models: tuple[str | None, ...], usage: Mapping[str, Any]) -> Cost | None:
        """Return what an answer cost; None if none of the models has a price.

        Args:
            models: names of the model, the best known first.
            usage: upstream's usage object, or the node's own count.
        """
        price = next((self.models[name] for name in models if name is not None and name in self.models), None)
        if price is None:
            return None
        prompt, completion = token_count(usage, "prompt_tokens"), token_count(usage, "completion_tokens")
        cached = cached_tokens(usage)
        reasoning = min(completion, token_count(usage.get("completion_tokens_details"), "reasoning_tokens"))
        amount = (prompt - cached) * price.prompt + cached * price.cached
        amount += (completion - reasoning) * price.completion + reasoning * price.reasoning
        return Cost(amount.scaleb(-6), self.currency, self.version)


def read_prices(path: str) -> Prices:
    """Return the prices that a file holds.

    Raises:
        ValueError: what is wrong with the file.
    """
    try:
        with open(path, "rb") as opened:
            raw = opened.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        why = error.strerror if isinstance(error, OSError) else "no path"
        raise ValueError(f"names a file that cannot be read ({why})") from None
    if len(raw) > LARGEST_FILE:
        raise ValueError(f"names a file of more than {LARGEST_FILE >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
        is_toml = path.endswith(".toml")
        value = tomllib.loads(text, parse_float=Decimal) if is_toml else json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"names a file that cannot be parsed ({str(error)[:200]})") from None
    return parse_prices(value)


def parse_prices(value: object) -> Prices:
    """Return the prices that a parsed file holds, numbers as Decimal or int.

    Raises:
        ValueError: what is wrong, naming the member.
    """
    if not isinstance(value, dict):
        raise ValueError("names a file that holds no object")
    version, currency, models = value.get("version"), value.get("currency"), value.get("models")
    for name, text in (("version", version), ("currency", currency)):
        if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= 64:
            raise ValueError(f"names a file without {name}, a text of 1 to 64 characters")
    if not isinstance(models, dict) or not models:
        raise ValueError("names a file without models")
    return Prices(str(version), str(currency), {name: _model_price(name, each) for name, each in models.items()})


def _model_price(model: str, value: object) -> ModelPrice:
    where = f"names a file whose model {model[:100]!r}"
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    if unknown := set(value) - {"prompt", "completion", "cached", "reasoning"}:
        raise ValueError(f"{where} has {sorted(unknown)[0]!r}: not one of prompt, completion, cached, reasoning")
    prices = {}
    for name, price in value.items():
        if isinstance(price, bool) or not isinstance(price, (int, Decimal)) or not 0 <= price < MILLION:
            raise ValueError(f"{where} has a price {name!r} that is not a number from 0 to {MILLION}")
        prices[name] = Decimal(price)
        if int(prices[name].as_tuple().exponent) < -MOST_DECIMALS:
            raise ValueError(f"{where} has a price {name!r} with more than {MOST_DECIMALS} decimals")
    if missing := {"prompt", "completion"} - set(prices):
        raise ValueError(f"{where} has no price {sorted(missing)[0]!r}")
    prompt, completion = prices["prompt"], prices["completion"]
    return ModelPrice(prompt, completion, prices.get("cached", prompt), prices.get("reasoning", completion))
