"""The sentences for people about upstream's faults: what happened, where, what to do. Pure; no secret in them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from workernode.errors import BAD_ANSWER
from workernode.net.origin import Origin
from workernode.protocol import FaultInfo, FaultKind
from workernode.settings import Settings


@dataclass(frozen=True, slots=True)
class FaultMessages:
    """The sentences of one node."""

    origin: str  # scheme and host of upstream: https://api.openai.com
    model: str  # the name that upstream is asked for
    aimodel: str = ""  # "namespace/name" of the AIModel; "" without

    @classmethod
    def of(cls, settings: Settings) -> FaultMessages:
        """Return the sentences of the node with these settings."""
        url = urlsplit(settings.api_url)
        origin = f"{url.scheme}://{Origin.of(url).authority}" if url.scheme else ""
        aimodel = f"{settings.aimodel_namespace}/{settings.aimodel_name}" if settings.aimodel_name else ""
        return cls(origin, settings.upstream_model or settings.model_name, aimodel)

    def __call__(self, fault: FaultInfo) -> str:
        """Return the sentence about a fault. Upstream's own words are not in it."""
        upstream = "OpenAI" if self.origin.endswith("//api.openai.com") else "The upstream"
        # A local model server has no address that means anything to people.
        where = f"({_answer(fault)})" + (f" at {self.origin}" if self.origin else "")
        of = f" of AIModel {self.aimodel}" if self.aimodel else ""
        match fault.kind:
            case FaultKind.KEY:
                return f"{upstream} refused the API key {where}; set API_KEY{of} to a valid key"
            case FaultKind.QUOTA:
                return (
                    f"{upstream} says that the quota of the API key is used up {where}; "
                    f"top up the account or raise its limit, or set API_KEY{of} to a key of another account"
                )
            case FaultKind.MODEL:
                return (
                    f"{upstream} does not know the model {self.model} {where}; "
                    f"set UPSTREAM_MODEL or MODEL_NAME{of} to a model that it serves"
                )
            case FaultKind.ADDRESS:
                return (
                    f"There is no chat API at API_URL {where}; "
                    f"set API_URL{of} to the base address of an OpenAI-compatible API, for example https://host/v1"
                )
            case FaultKind.CERTIFICATE:
                return (
                    f"The TLS certificate of the upstream is not trusted {where}; "
                    f"set UPSTREAM_CA{of} to a file with its authority, or correct API_URL{of}"
                )
            case FaultKind.REFUSED:
                return (
                    f"{upstream} refuses the requests of this node {where}; check what API_KEY{of} may do, "
                    "its account, and whether a firewall stands between"
                )
            case FaultKind.RATE_LIMIT | FaultKind.RAMP:
                return (
                    f"{upstream} limits the rate of calls {where}; if it lasts, raise the limit of the account, "
                    f"or lower MAX_PROCESS_NUM{of}"
                )
            case FaultKind.UNAVAILABLE | FaultKind.PASSING:
                is_answer = 200 <= fault.http_status < 300
                fails = "answers with what cannot be used" if is_answer else "does not serve requests"
                return (
                    f"{upstream} {fails} {where}; start it, look at the provider's status page, "
                    f"or correct API_URL{of}"
                )
            case _:
                return f"{upstream} failed {where}"


def _answer(fault: FaultInfo) -> str:
    """Upstream's status and code: "401 invalid_api_key"; not a code that only repeats the kind or the status."""
    status = str(fault.http_status or "no answer")
    repeats = ("", status, fault.kind.value, BAD_ANSWER, "upstream_unreachable")
    return status if fault.code in repeats else f"{status} {fault.code}"
