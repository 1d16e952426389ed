# SPDX-License-Identifier: Apache-2.0
"""The OpenAI API's requests, checked, and its errors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

__all__ = ["MAX_TEXTS", "ApiError", "ChatRequest", "CompletionRequest", "GenerationRequest", "checked",
           "parsed", "rendered"]  # fmt: skip

MAX_TEXTS = 16  #: Texts of one request: prompts times ``n``.
MAX_STOPS = 4
MAX_STOP = 256  #: Characters of a stop string.
_MAX_MESSAGES = 1024


class ApiError(Exception):
    """What a client is told instead of a result.

    Parameters
    ----------
    status : int
        HTTP's.
    message : str
    param : str, optional
        Field of the request that is wrong.
    code : str, optional
    kind : str
        The error's ``type``.
    headers : mapping, optional
        Of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """What a stream also has."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # none is added; clients need not mind


class GenerationRequest(_Strict):
    """What both endpoints take."""

    model: str
    n: int | None = Field(None, ge=1, le=MAX_TEXTS)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1)
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop(cls, value: Any) -> Any:
        if value is None:
            return None
        stops = [value] if isinstance(value, str) else value
        if not (isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)):
            raise ValueError("it must be a string or a list of strings")
        if len(stops) > MAX_STOPS or not all(1 <= len(stop) <= MAX_STOP for stop in stops):
            raise ValueError(f"at most {MAX_STOPS} strings of 1 to {MAX_STOP} characters")
        return stops


class CompletionRequest(GenerationRequest):
    """Body of ``/v1/completions``."""

    prompt: list[str | list[int]] = [""]
    echo: bool | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompt(cls, value: Any) -> Any:
        if value is None:
            return [""]
        prompts = value if isinstance(value, list) else [value]
        if prompts and prompts is value and all(type(part) is int for part in prompts):
            prompts = [prompts]
        if not prompts:
            raise ValueError("it is empty; give at least one prompt")
        for prompt in prompts:
            if not isinstance(prompt, str) and not (
                isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt)
            ):
                raise ValueError("it must be a string, a list of tokens, or a list of those")
        if len(prompts) > MAX_TEXTS:
            raise ValueError(f"at most {MAX_TEXTS} prompts")
        return prompts


class Part(_Strict):
    """Piece of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """Message of a chat. Of what an answer also has, only that nothing is there is understood."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @field_validator("content", mode="before")
    @classmethod
    def _content(cls, value: Any) -> Any:
        if not isinstance(value, str | list):
            raise ValueError("it must be a string or a list of parts of type text")
        return [Part.model_validate(part) for part in value] if isinstance(value, list) else value

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """Body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=_MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)


#: Parameters of the API that this server has not, and the values that ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "parallel_tool_calls": (None, False, True),
    "prediction": (None,),
    "presence_penalty": (None, 0, 0.0),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None,),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
#: Parameters that say something about the caller, which is not asked for here.
_IGNORED = ("prompt_cache_key", "prompt_cache_retention", "safety_identifier")

_UNION = re.compile(r"str|list\[.*\]")  # what pydantic adds to a place in a union

_Model = TypeVar("_Model", bound=GenerationRequest)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parsed(raw: bytes) -> dict[str, Any]:
    """A body that must be a JSON object."""
    try:
        body = json.loads(raw.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise ApiError(400, f"the body is no JSON that can be read: {why}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return body


def checked(body: dict[str, Any], kind: type[_Model]) -> _Model:
    """A request's body as an object.

    Raises
    ------
    ApiError
        Naming the first parameter that is wrong, unknown, or not supported.
    """
    body = {name: value for name, value in body.items() if name not in _IGNORED}
    for name, allowed in _NOTHING.items():
        if name in body and name not in kind.model_fields:
            value = body.pop(name)
            if not any(type(value) is type(other) and value == other for other in allowed):
                raise ApiError(
                    400, f"{name}: this server does not support it; leave it out", param=name,
                    code="unsupported_parameter",
                )  # fmt: skip
    try:
        request = kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = _param(first["loc"])
        code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
        why = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
        raise ApiError(
            400, f"{param}: {why[:1].lower()}{why[1:]}", param=param,
            code=code.get(first["type"], "invalid_value"),
        ) from None  # fmt: skip
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options: only with stream", param="stream_options", code="invalid_value")
    return request


def _param(place: tuple[int | str, ...]) -> str:
    """``messages[0].role`` of pydantic's place; a name of the client's making is cut short."""
    place = tuple(part for part in place if not _UNION.fullmatch(str(part)))
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:64]}" for part in place)
    return name.lstrip(".")


def rendered(messages: list[Message]) -> tuple[str, str]:
    """A chat as a text for a model that was not trained for chats, and the string that ends its answer.

    System messages stand alone; others follow ``User:`` or ``Assistant:``, each on a line of its own; the last
    line is ``Assistant:``.
    """
    text = ""
    for message in messages:
        if message.role in ("system", "developer"):
            text += f"{message.text}\n\n"
        else:
            text += f"{message.role.capitalize()}: {message.text}\n"
    return text + "Assistant:", "\nUser:"
