"""The names that providers and gateways give to errors → the kind of fault. Pure.

Each name has its source. Providers and gateways copy each other's names, so that there is one table for all of them.
"""

from __future__ import annotations

from workernode.protocol import FaultKind

# Spelling does not count: case, `_`, `-` and spaces are ignored.

_QUOTA = (
    "insufficient_quota",  # OpenAI, error codes
    "credit_balance_exhausted",  # OpenAI, error codes
    "insufficient_user_quota",  # one-api#1270, new-api
    "pre_consume_token_quota_failed",  # one-api relay/controller/helper.go, new-api
    "token_quota_exhausted",  # new-api types/error.go
    "insufficient_balance",  # sub2api#890, MiniMax
    "insufficient_credits",  # OpenRouter error page, Together
    "exceeded_current_quota_error",  # Moonshot, error codes
    "arrearage",  # DashScope, error codes; qwen-code#54
    "AllocationQuota.FreeTierOnly",  # DashScope, error codes
    "AccountOverdueError",  # Volcengine Ark, error codes
    "budget_exceeded",  # LiteLLM proxy, BudgetExceededError (status 400)
    "payment_required",  # LiteLLM, Mistral: type of a 402
    "quota_exceeded",  # GitHub Models, Together
    "usage_limit_reached",  # OpenAI Codex plan limits
    "billing_error",  # Anthropic, error types
    "access_terminated_error",  # Moonshot: the coding plan has ended
)
_QUOTA_ENDS = ("spendlimitexceeded", "usagelimitexceeded")  # OpenAI: organization_..., project_...
_QUOTA_STARTS = ("billing",)  # OpenAI: billing_hard_limit_reached, billing_not_active

_KEY = (
    "invalid_api_key",  # OpenAI, DashScope, Groq
    "invalid_authentication",  # OpenAI, error codes
    "account_deactivated",  # OpenAI
    "authentication_error",  # Anthropic, DeepSeek, OpenAI
    "permission_error",  # Anthropic: the key has no permission
    "invalid_authentication_error",  # Moonshot, error codes
    "incorrect_api_key_error",  # Moonshot, error codes
    "auth_error",  # LiteLLM proxy, ProxyErrorTypes
    "token_not_found_in_db",  # LiteLLM proxy, ProxyErrorTypes
    "expired_key",  # LiteLLM proxy, ProxyErrorTypes
    "API_KEY_INVALID",  # Gemini, details[].reason (status 400); continue#11704
    "API_KEY_EXPIRED",  # google.api ErrorReason
    "API_KEY_SERVICE_BLOCKED",  # google.api ErrorReason
    "CONSUMER_SUSPENDED",  # google.api ErrorReason
    "UNAUTHENTICATED",  # google.rpc.Code
    "AuthenticationError",  # Volcengine Ark, vLLM
    "invalid_key",  # several gateways
    "missing_api_key",  # several gateways
    "unauthorized",  # Mistral, GitHub Models
    "INVALID_API_KEY",  # sub2api
    "API_KEY_REQUIRED",  # sub2api
    "UnrecognizedClientException",  # AWS Bedrock
    "organization_restricted",  # Groq (status 400)
)
_MODEL = (
    "model_not_found",  # OpenAI, DashScope, new-api
    "DeploymentNotFound",  # Azure
    "NotFoundError",  # vLLM; worker-vllm#57
    "not_found_error",  # Anthropic, newer Ollama
    "ModelNotFound",  # DashScope
    "NOT_FOUND",  # google.rpc.Code
    "InvalidEndpointOrModel.NotFound",  # Volcengine Ark
    "ModelNotOpen",  # Volcengine Ark: not activated for the account
    "resource_not_found_error",  # Moonshot
    "invalid_model",  # Mistral (status 400)
    "model_decommissioned",  # Groq (status 400)
    "model_terms_required",  # Groq (status 400): its terms were not accepted for this account
    "key_model_access_denied",  # LiteLLM proxy, ProxyErrorTypes
    "team_model_access_denied",  # LiteLLM proxy, ProxyErrorTypes
    "unsupported_model",  # several gateways
    "unknown_model",  # GitHub Models
    "model_not_supported",  # Hugging Face router, GitHub Copilot
)
_ADDRESS = ("unknown_url", "invalid_url")  # OpenAI: 404 of an unknown path
_LOAD = (
    "server_is_overloaded",  # OpenAI, error codes
    "service_unavailable",  # several
    "service_unavailable_error",  # OpenAI, DeepSeek
    "unavailable_error",  # llama.cpp: the model loads
    "UNAVAILABLE",  # google.rpc.Code
    "overloaded_error",  # Anthropic (529)
    "overloaded",  # Hugging Face TGI, error_type
    "engine_overloaded_error",  # Moonshot (429)
    "capacity_exceeded",  # Groq (498)
    "service_tier_capacity_exceeded",  # Mistral (429)
    "ServerOverloaded",  # Volcengine Ark (429)
    "ModelLoadingError",  # Volcengine Ark (429)
    "model_loading",  # several
    "ServiceUnavailableException",  # AWS Bedrock
    "ModelNotReadyException",  # AWS Bedrock (429)
    "NoCapacity",  # Azure
    "system_cpu_overloaded",  # new-api (503)
    "system_memory_overloaded",  # new-api (503)
)
_RAMP = ("slow_down",)  # OpenAI
_RATE = (
    "rate_limit_exceeded",  # OpenAI
    "requests",  # OpenAI, type
    "tokens",  # OpenAI, type
    "rate_limit_error",  # OpenAI, Anthropic
    "rate_limit_reached_error",  # Moonshot
    "rate_limited",  # Mistral
    "RESOURCE_EXHAUSTED",  # google.rpc.Code
    "Throttling",  # DashScope
    "Throttling.RateQuota",  # DashScope
    "Throttling.AllocationQuota",  # DashScope
    "Throttling.BurstRate",  # DashScope
    "limit_requests",  # DashScope
    "limit_burst_rate",  # DashScope
    "throttling_error",  # LiteLLM proxy, ProxyErrorTypes
    "ThrottlingException",  # AWS Bedrock
    "too_many_requests",  # several
    "RateLimitReached",  # Azure
    "REQUEST_LIMIT_EXCEEDED",  # Databricks
    "tokens_limit_reached",  # GitHub Models
)
_RATE_STARTS = ("ratelimitexceeded.",)  # Volcengine Ark: RateLimitExceeded.EndpointRPMExceeded
# The client's own text is refused: asking again, or with another key, cannot help.
_REQUEST = (
    "content_policy_violation",  # OpenAI
    "content_filter",  # OpenAI, Azure
    "ResponsibleAIPolicyViolation",  # Azure, innererror.code
    "moderation_blocked",  # OpenAI images
    "cyber_policy_violation",  # OpenAI
    "sensitive_words_detected",  # one-api, new-api
    "prompt_blocked",  # new-api
    "data_inspection_failed",  # DashScope
    "DataInspectionFailed",  # DashScope
    "InputTextSensitiveContentDetected",  # Volcengine Ark
    "SensitiveContentDetected",  # Volcengine Ark
    "content_moderation",  # several
    "context_length_exceeded",  # OpenAI, Groq
    "string_above_max_length",  # OpenAI
    "exceed_context_size_error",  # llama.cpp
    "request_too_large",  # Anthropic (413), GitHub Models
    "invalid_prompt",  # OpenAI
    "image_parse_error",  # OpenAI
    "json_validate_failed",  # Groq: the model's own output was no JSON
    "tool_use_failed",  # Groq
)
# Types that stand for "the request is wrong", and that some providers give to everything: they count only where the
# status leaves the question open.
_WEAK_REQUEST = (
    "invalid_request_error",  # OpenAI
    "BadRequestError",  # vLLM, LiteLLM
    "bad_request_error",  # LiteLLM proxy
    "InvalidParameter",  # DashScope, Volcengine Ark
    "invalid_parameter_error",  # DashScope
    "ValidationException",  # AWS Bedrock
    "BAD_REQUEST",  # Databricks
)
# A 400 with one of these may be about the request or about the key: other tasks have to show (spec 5).
_REFUSED = (
    "invalid-argument",  # xAI for a wrong key as for a wrong request; continue#11704, sub2api#1709
    "INVALID_ARGUMENT",  # Gemini, without details
    "FAILED_PRECONDITION",  # Gemini: no billing, or the country of the node
    "unsupported_country_region_territory",  # OpenAI: the country of the node
    "request_forbidden",  # OpenAI
)
# Numbers that stand in a member of their own.
ZHIPU = {  # `error.code`, texts of four digits: bigmodel.cn, error codes
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), FaultKind.KEY),
    **dict.fromkeys(("1110", "1111", "1112"), FaultKind.KEY),  # the account is inactive, unknown or locked
    "1113": FaultKind.QUOTA,
    "1211": FaultKind.MODEL,
    "1301": FaultKind.CLIENT,
    **dict.fromkeys(("1302", "1303"), FaultKind.RATE_LIMIT),
    **dict.fromkeys(("1304", "1308", "1309", "1310"), FaultKind.QUOTA),  # of a day, or of a plan
    "1305": FaultKind.UNAVAILABLE,
}
MINIMAX = {  # `base_resp.status_code`: minimax.io, error codes; Roo-Code PR #9105
    1002: FaultKind.RATE_LIMIT,
    1004: FaultKind.KEY,
    1008: FaultKind.QUOTA,
    1026: FaultKind.CLIENT,
    1027: FaultKind.CLIENT,
    1039: FaultKind.RATE_LIMIT,
    1041: FaultKind.RATE_LIMIT,
    1042: FaultKind.CLIENT,
    2013: FaultKind.CLIENT,
    2049: FaultKind.KEY,
    2056: FaultKind.QUOTA,
}
QIANFAN = {  # `error_code`: Baidu Qianfan, error codes
    4: FaultKind.RATE_LIMIT,
    17: FaultKind.QUOTA,
    18: FaultKind.RATE_LIMIT,
    19: FaultKind.QUOTA,
    110: FaultKind.KEY,
    111: FaultKind.KEY,
    336100: FaultKind.UNAVAILABLE,
    336501: FaultKind.RATE_LIMIT,
    336502: FaultKind.RATE_LIMIT,
}


def plain_name(name: str) -> str:
    """Return the name without what differs from one spelling to another."""
    return name.strip().lower().replace("_", "").replace("-", "").replace(" ", "")


def _table(*names: str) -> frozenset[str]:
    return frozenset(map(plain_name, names))


QUOTA, KEY, MODEL, ADDRESS, LOAD = _table(*_QUOTA), _table(*_KEY), _table(*_MODEL), _table(*_ADDRESS), _table(*_LOAD)
RAMP, RATE, REQUEST = _table(*_RAMP), _table(*_RATE), _table(*_REQUEST)
WEAK_REQUEST, REFUSED = _table(*_WEAK_REQUEST), _table(*_REFUSED)

_IN_ORDER = (
    (FaultKind.CLIENT, REQUEST),
    (FaultKind.KEY, KEY),
    (FaultKind.MODEL, MODEL),
    (FaultKind.ADDRESS, ADDRESS),
    (FaultKind.UNAVAILABLE, LOAD),
    (FaultKind.RAMP, RAMP),
    (FaultKind.RATE_LIMIT, RATE),
)


def kind_of_names(names: frozenset[str]) -> FaultKind | None:
    """Return the kind that the names of an error mean, or None. Names that only hint are left out (WEAK_REQUEST).

    Args:
        names: as `plain_name` writes them.
    """
    if QUOTA & names or any(name.endswith(_QUOTA_ENDS) or name.startswith(_QUOTA_STARTS) for name in names):
        return FaultKind.QUOTA
    for kind, table in _IN_ORDER:
        if table & names:
            return kind
    if any(name.startswith(_RATE_STARTS) for name in names):
        return FaultKind.RATE_LIMIT
    return FaultKind.REFUSED if REFUSED & names and not WEAK_REQUEST & names else None


def is_about_content(code: str) -> bool:
    """Return whether an error's code means that the client's own text is refused, or is too long."""
    return plain_name(code) in REQUEST
