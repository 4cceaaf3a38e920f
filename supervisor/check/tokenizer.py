"""`--check`: can the file that TOKENIZER names be loaded? Checked only where it is set."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.check.findings import Check, Context, Finding, Mark
from workernode.settings import Settings
from workernode.token_estimate import load_tokenizer

NAME = "tokenizer"
SAMPLE = "What is the capital of France?"


def checks(settings: Settings) -> list[Check]:
    """Return the checks of this module: none where TOKENIZER is not set."""
    return [Check((NAME,), check_tokenizer)] if settings.tokenizer else []


def check_tokenizer(context: Context) -> Iterator[Finding]:
    """Load the tokenizer, and show what it makes of a sentence. The node serves without it."""
    try:
        [encoding] = load_tokenizer(context.settings.tokenizer).encode_batch_fast([SAMPLE], add_special_tokens=False)
    except Exception as error:  # the library raises no other class
        text = f"the file cannot be loaded ({str(error)[:200]}): no tokens are estimated"
        yield Finding(NAME, Mark.WARNING, text, "set TOKENIZER to the tokenizer.json of the model that upstream runs")
        return
    yield Finding(NAME, Mark.OK, f"it makes {len(encoding)} tokens of {SAMPLE!r}")
