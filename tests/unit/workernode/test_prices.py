"""What answers cost, to the last digit; and every mistake in a file of prices is named."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workernode.prices import ModelPrice, Prices, parse_prices, read_prices

PRICES = Prices(
    "2026-11", "USD", {"gpt-4o": ModelPrice(Decimal("2.5"), Decimal("10"), Decimal("1.25"), Decimal("12"))}
)


def usage(prompt: object, completion: object, cached: object = None, reasoning: object = None) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


COSTS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": ({"prompt_tokens": 1000, "completion_tokens": 100}, "0.0035"),
    "cached": (usage(1000, 0, cached=400), "0.002"),
    "reasoning": (usage(0, 100, reasoning=40), "0.00108"),
    "all_kinds": (usage(1000, 100, 400, 40), "0.00308"),
    "one_token": ({"prompt_tokens": 1, "completion_tokens": 0}, "0.0000025"),
    "counted_by_the_node": ({"completion_tokens": 7}, "0.00007"),
    "deepseeks_cache": ({"prompt_tokens": 10, "completion_tokens": 0, "prompt_cache_hit_tokens": 10}, "0.0000125"),
    "more_cached_than_there_are": (usage(10, 0, cached=50), "0.0000125"),
    "more_reasoning_than_there_is": (usage(0, 10, reasoning=50), "0.00012"),
    "figures_of_wrong_types": (usage("5", 1.5, True, -3), "0"),
    "details_of_wrong_types": ({"prompt_tokens": 2, "completion_tokens": 0, "prompt_tokens_details": 5}, "0.000005"),
}


@pytest.mark.parametrize(("figures", "amount"), COSTS.values(), ids=COSTS.keys())
def test_an_answer_costs_what_its_tokens_cost(figures: dict[str, Any], amount: str) -> None:
    cost = PRICES.cost(("gpt-4o",), figures)
    assert cost is not None
    assert (cost.amount, cost.currency, cost.version) == (Decimal(amount), "USD", "2026-11")


def test_the_best_known_name_that_has_a_price_counts() -> None:
    assert PRICES.cost(("gpt-4o-2024-08-06", "gpt-4o"), {}) is not None
    assert PRICES.cost((None, "gpt-4o"), {}) is not None
    assert PRICES.cost(("other", None), {}) is None


@given(st.lists(st.tuples(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1)), max_size=20))
def test_a_sum_of_costs_is_the_cost_of_the_sum(answers: list[tuple[int, int]]) -> None:
    """To the last digit: no amount is rounded."""
    price = ModelPrice(*(Decimal("123456.123456789"),) * 4)
    prices = Prices("1", "USD", {"m": price})
    costs = [prices.cost(("m",), {"prompt_tokens": a, "completion_tokens": b}) for a, b in answers]
    total = sum((cost.amount for cost in costs if cost), Decimal(0))
    assert total * 10**15 == sum(a + b for a, b in answers) * 123456123456789


JSON = '{"version": "1", "currency": "EUR", "models": {"m": {"prompt": 0.1, "completion": 2}}}'
TOML = 'version = "1"\ncurrency = "EUR"\n[models.m]\nprompt = 0.1\ncompletion = 2\n'


@pytest.mark.parametrize(("name", "text"), [("prices.json", JSON), ("prices", JSON), ("prices.toml", TOML)])
def test_a_file_is_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    price = ModelPrice(Decimal("0.1"), Decimal(2), Decimal("0.1"), Decimal(2))
    assert read_prices(str(tmp_path / name)) == Prices("1", "EUR", {"m": price})


FILES = {
    "missing": (None, "cannot be read \\(No such file"),
    "rubbish": (b"{", "cannot be parsed"),
    "deep": (b"[" * 100_000, "cannot be parsed"),
    "not_utf8": (b"\xff", "cannot be parsed"),
    "large": (b" " * (1024 * 1024 + 1), "more than 1 MiB"),
    "list": (b"[]", "no object"),
}


@pytest.mark.parametrize(("raw", "why"), FILES.values(), ids=FILES.keys())
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, raw: bytes | None, why: str) -> None:
    if raw is not None:
        (tmp_path / "prices").write_bytes(raw)
    with pytest.raises(ValueError, match=why):
        read_prices(str(tmp_path / "prices"))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no_version": ({"version": None}, "version"),
    "number_as_version": ({"version": 5}, "version"),
    "no_currency": ({"currency": ""}, "currency"),
    "no_models": ({"models": {}}, "models"),
    "model_is_a_number": ({"models": {"m": 5}}, "'m' is no object"),
    "no_prompt": ({"models": {"m": {"completion": 1}}}, "no price 'prompt'"),
    "unknown_kind": ({"models": {"m": {"prompt": 1, "completion": 1, "audio": 1}}}, "'audio'"),
    "negative": ({"models": {"m": {"prompt": -1, "completion": 1}}}, "'prompt'"),
    "text": ({"models": {"m": {"prompt": "1", "completion": 1}}}, "'prompt'"),
    "boolean": ({"models": {"m": {"prompt": True, "completion": 1}}}, "'prompt'"),
    "nan": ({"models": {"m": {"prompt": float("nan"), "completion": 1}}}, "'prompt'"),
    "too_many_decimals": ({"models": {"m": {"prompt": Decimal("1e-10"), "completion": 1}}}, "9 decimals"),
}


@pytest.mark.parametrize(("changes", "why"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_in_the_prices_is_named(changes: dict[str, Any], why: str) -> None:
    value = {**json.loads(JSON, parse_float=Decimal), **changes}
    with pytest.raises(ValueError, match=why):
        parse_prices(value)
