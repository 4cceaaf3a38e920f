"""The sentences for people about upstream's troubles: what happened, where, what to do. Pure; no secret in them."""

from __future__ import annotations

from dataclasses import dataclass

from workernode.protocol import FaultInfo, FaultKind


@dataclass(frozen=True, slots=True)
class Words:
    """The sentences of one node."""

    origin: str  # scheme and host of upstream: https://api.openai.com
    model: str  # the name that upstream is asked for
    aimodel: str = ""  # "namespace/name" of the AIModel; "" without

    def __call__(self, trouble: FaultInfo) -> str:
        """Return the sentence for a trouble."""
        who = "OpenAI" if self.origin.endswith("//api.openai.com") else "The upstream"
        answer = " ".join(str(part) for part in (trouble.http_status or "no answer", trouble.code) if part)
        of = f" of AIModel {self.aimodel}" if self.aimodel else ""
        match trouble.kind:
            case FaultKind.KEY:
                return f"{who} refused the API key ({answer}) at {self.origin}; set API_KEY{of} to a valid key"
            case FaultKind.QUOTA:
                return (
                    f"{who} says that the quota of the API key is used up ({answer}) at {self.origin}; "
                    f"top up the account or raise its limit, or set API_KEY{of} to a key of another account"
                )
            case FaultKind.MODEL:
                return (
                    f"{who} does not know the model {self.model} ({answer}) at {self.origin}; "
                    f"set UPSTREAM_MODEL or MODEL_NAME{of} to a model that it serves"
                )
            case FaultKind.RATE_LIMIT | FaultKind.RAMP:
                return (
                    f"{who} limits the rate of calls ({answer}) at {self.origin}; if it lasts, raise the limit of the "
                    f"account, or lower MAX_PROCESS_NUM{of}"
                )
            case _:
                return f"{who} failed ({answer}) at {self.origin}"
