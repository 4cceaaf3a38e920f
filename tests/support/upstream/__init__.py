"""An OpenAI-compatible upstream that answers, or misbehaves, on cue.

What it does to one chat request is a `Directive`: from `script`, else from the request itself (the last message's
content may be `lab:{json}`), else `mode`. It writes down what it was asked and what it sent.
"""

from tests.support.upstream.directive import REFUSAL, error_of
from tests.support.upstream.exchange import Exchange
from tests.support.upstream.rate_limit import Limit
from tests.support.upstream.server import FakeUpstream

__all__ = ["REFUSAL", "Exchange", "FakeUpstream", "Limit", "error_of"]
