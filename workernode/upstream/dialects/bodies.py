"""Error bodies of any shape → OpenAI's shape, with the message, type and code of the provider kept. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from workernode.protocol import FaultKind
from workernode.upstream.dialects.names import MINIMAX, QIANFAN, WEAK_REQUEST, ZHIPU, kind_of_names, plain_name

MAX_NAMES = 20  # names of one error body that are looked up; real ones have up to five
NO_MESSAGE = "The upstream gave an error without a message."


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error of upstream's, in OpenAI's shape and with its names."""

    body: dict[str, Any]  # {"error": {"message", "type", "param", "code", ...}}
    message: str
    code: str  # for people: the code, else the type; "" without
    names: frozenset[str]  # codes and types, as `plain_name` writes them
    kind: FaultKind | None  # by a number in a member of its own
    status: int  # HTTP status that the body itself names, 400 to 599; 0 without
    is_openai: bool  # it has a member `error` as OpenAI or Ollama have it: an API of chats answered

    @property
    def named_kind(self) -> FaultKind | None:
        """Return the kind that its names mean; None if they mean none."""
        return self.kind or kind_of_names(self.names)

    @property
    def blames_request(self) -> bool:
        """A name hints that the request is wrong; some providers give such a name to everything."""
        return not WEAK_REQUEST.isdisjoint(self.names)


def read_error(value: object) -> ErrorBody | None:
    """Return the error that the parsed body of a refusal (status 4xx or 5xx) holds; None if it holds none.

    Args:
        value: any JSON value. Known shapes: OpenAI's; a list of one (Gemini); `error` as a text (Ollama, xAI, TGI);
            flat (vLLM, Mistral); `errors` (Cloudflare); `detail` (FastAPI); `base_resp` (MiniMax); `error_code` and
            `error_msg` (Qianfan, Databricks); `Response.Error` (Tencent); `message` alone (Kong, Azure, AWS); a text.
    """
    if isinstance(value, list):
        value = next((each for each in value if isinstance(each, dict)), None)
    if isinstance(value, str) and value.strip():
        return _made(value, {}, {})
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if isinstance(error, list):
        error = next((each for each in error if isinstance(each, dict)), None)
    if isinstance(error, dict):
        inner = error.get("error")
        if isinstance(inner, dict) and not isinstance(error.get("message"), str):
            error = inner
        return _openai(value, error)
    if isinstance(error, str) and error:  # Ollama, TGI, xAI; but web frameworks have `{"status", "error", "path"}`
        return replace(_made(error, value, value), is_openai="status" not in value and "path" not in value)
    return _other_shape(value)


def error_in_answer(value: dict[str, Any], event: str = "") -> ErrorBody | None:
    """Return the error that stands where an answer should: in a body with status 2xx, or in a chunk of a stream.

    Args:
        value: the body or the chunk.
        event: the name of the event in which the chunk came; "" without.
    """
    choices = value.get("choices")
    if isinstance(choices, list) and choices:
        for choice in choices:  # OpenRouter: one provider's failure inside an answer
            if isinstance(choice, dict) and isinstance(choice.get("error"), dict) and choice["error"]:
                return _openai({}, choice["error"])
        return None
    if value.get("error"):
        return read_error(value) or _made("", {}, {})
    base = value.get("base_resp")
    if isinstance(base, dict):
        return _other_shape(value) if base.get("status_code") else None
    is_error = value.get("object") == "error" or value.get("type") == "error" or event == "error"
    is_other = not isinstance(choices, list) and value.get("usage") is None and _is_refusal(value)
    return read_error(value) or _made("", {}, {}) if is_error or is_other else None


def _is_refusal(value: dict[str, Any]) -> bool:
    """An object that is no answer and has the members of an error."""
    if value.get("success") is False or value.get("errors") or value.get("error_code") or value.get("detail"):
        return True
    response = value.get("Response")
    if isinstance(response, dict) and response.get("Error"):
        return True
    has_text = any(isinstance(value.get(name), str) for name in ("message", "msg", "Message"))
    return has_text and (bool(value.get("code") or value.get("__type")) or bool(_status(value)))


def _openai(whole: dict[str, Any], error: dict[str, Any]) -> ErrorBody:
    """An error object: passed on as it is, with the members that OpenAI's shape has and it lacks."""
    message = _text(error, "message", "msg", "detail", "reason")
    shaped = {
        "message": message or NO_MESSAGE,
        "type": _text(error, "type", "status", "error_type") or "upstream_error",
        "param": None,
        "code": None,
        **error,
    }
    if not isinstance(shaped["message"], str) or not shaped["message"]:
        shaped["message"] = message or NO_MESSAGE
    if not isinstance(shaped["type"], str):
        shaped["type"] = "upstream_error"
    names = _names(error, whole)
    body = {**whole, "error": shaped} if whole.get("error") is error else {"error": shaped}
    return ErrorBody(
        body, shaped["message"], _shown(error), names, _kind_of_number(error), _status(error) or _status(whole), True
    )


def _other_shape(value: dict[str, Any]) -> ErrorBody | None:
    """An error whose members stand somewhere else than in `error`."""
    base, response = value.get("base_resp"), value.get("Response")
    if isinstance(base, dict) and base.get("status_code"):
        number = base["status_code"]
        kind = MINIMAX.get(number) if isinstance(number, int) else None
        return replace(_made(_text(base, "status_msg"), {"code": number}, {}), kind=kind, status=0)
    if isinstance(response, dict) and isinstance(response.get("Error"), dict):
        error = response["Error"]
        return _made(_text(error, "Message"), {"code": error.get("Code")}, {})
    errors = value.get("errors")
    if isinstance(errors, list) and errors:
        first = errors[0]
        return _made(_text(first, "message"), first, value) if isinstance(first, dict) else _made(str(first), {}, value)
    if value.get("error_code") is not None:
        number = value["error_code"]
        kind = QIANFAN.get(number) if isinstance(number, int) else None
        return replace(_made(_text(value, "error_msg", "message", "text"), {"code": number}, value), kind=kind)
    detail = value.get("detail")
    inner = detail if isinstance(detail, dict) else value.get("message")
    if isinstance(inner, dict):  # Mistral puts FastAPI's detail into the message
        found = read_error(inner)
        return found and _made(found.message, {**value, "type": found.body["error"]["type"]}, value)
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):  # pydantic: one entry a member
        return _made(_text(detail[0], "msg", "message"), {"type": _text(detail[0], "type")}, {})
    message = _text(value, "detail", "message", "msg", "Message", "error_description", "title")
    return _made(message, value, value) if message else None


def _made(message: str, error: Mapping[str, Any], whole: Mapping[str, Any]) -> ErrorBody:
    """OpenAI's shape, made of members that stand elsewhere."""
    code = error.get("code")
    if isinstance(code, bool) or not isinstance(code, (str, int)):
        code = None
    kind = _text(error, "type", "error_type", "status", "__type")
    body = {
        "error": {
            "message": message or NO_MESSAGE,
            "type": kind if kind and kind != "error" else "upstream_error",
            "param": error.get("param") if isinstance(error.get("param"), str) else None,
            "code": code,
        }
    }
    status = _status(error) or _status(whole)
    return ErrorBody(
        body, message or NO_MESSAGE, _shown(error), _names(error, whole), _kind_of_number(error), status, False
    )


def _text(value: Mapping[str, Any], *members: str) -> str:
    """The first of these members that is a text."""
    for member in members:
        text = value.get(member)
        if isinstance(text, str) and text:
            return text
    return ""


def _shown(error: Mapping[str, Any]) -> str:
    """What people read as the error's code."""
    code = error.get("code")
    if isinstance(code, int) and not isinstance(code, bool):
        return str(code)
    return code if isinstance(code, str) and code else _text(error, "type", "status", "error_type")


def _status(error: Mapping[str, Any]) -> int:
    """The HTTP status that an error names as its code, as a number or as a text of digits."""
    for member in ("code", "status", "status_code", "statusCode"):
        value = error.get(member)
        if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value < 600:
            return value
    return 0


def _kind_of_number(error: Mapping[str, Any]) -> FaultKind | None:
    code = error.get("code")
    return ZHIPU.get(code) if isinstance(code, str) else None


def _names(error: Mapping[str, Any], whole: Mapping[str, Any]) -> frozenset[str]:
    names: list[str] = []
    for name in _every_name(error, whole):
        names.append(plain_name(name[:100]))
        if len(names) == MAX_NAMES:
            break
    return frozenset(names)


def _every_name(error: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[str]:
    """The texts that are names, in the members where providers put them."""
    for each in (error, whole):
        for member in ("code", "type", "status", "reason", "error_type", "error_code", "__type"):
            value = each.get(member)
            if isinstance(value, str):
                yield value
    for member in ("innererror", "metadata"):  # Azure; OpenRouter
        inner = error.get(member)
        if isinstance(inner, dict):
            yield from _names_of_inner(inner)
    for member in ("details", "errors"):  # google.rpc.ErrorInfo; older Google APIs
        entries = error.get(member)
        for entry in entries[:MAX_NAMES] if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                yield from _names_of_inner(entry)


def _names_of_inner(inner: dict[str, Any]) -> Iterator[str]:
    for member in ("code", "reason", "error_type", "type"):
        value = inner.get(member)
        if isinstance(value, str):
            yield value
    if inner.get("flagged_input") is not None:  # OpenRouter: moderation
        yield "content_moderation"
    if inner.get("fieldViolations"):  # google.rpc.BadRequest: which member of the request is wrong
        yield "invalid_request_error"
