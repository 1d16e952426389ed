# SPDX-License-Identifier: Apache-2.0
"""The forms of results, as the API has them."""

from __future__ import annotations

import secrets
import time
from typing import Any

from .engine import Ask
from .service import Service
from .text import Growing

__all__ = ["Answer"]


class Answer:
    """The forms of a request's results: of a completion or a chat, whole or in pieces."""

    def __init__(self, service: Service, *, chat: bool, asks: list[Ask]):
        self._chat = chat
        self._asks = asks
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}", "object": kind,
            "created": int(time.time()), "model": service.name, "system_fingerprint": service.design,
        }  # fmt: skip

    def usage(self, texts: list[Growing], prompts: int) -> dict[str, int]:
        """Token counts; a prompt counts once, however many texts continue it."""
        copies = len(self._asks) // prompts
        given = sum(len(ask.prompt) for ask in self._asks[::copies])
        made = sum(text.tokens for text in texts)
        return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}

    def whole(self, texts: list[str], reasons: list[str | None], usage: dict[str, int]) -> dict[str, Any]:
        """All of it."""
        choices = []
        for number, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            said: dict[str, Any] = {"text": text}
            if self._chat:
                said = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append({"index": number, **said, "logprobs": None, "finish_reason": reason})
        return {**self._head, "choices": choices, "usage": usage}

    def piece(self, number: int, said: str, reason: str | None, *, first: bool = False) -> dict[str, Any]:
        """Part of a text."""
        body: dict[str, Any] = {"text": said}
        if self._chat:
            body = {"delta": {"role": "assistant", "content": ""} if first else {"content": said}}
            if reason is not None and not said:
                body = {"delta": {}}
        choice = {"index": number, **body, "logprobs": None, "finish_reason": reason}
        return self._event([choice])

    def end(self, usage: dict[str, int]) -> dict[str, Any]:
        """Usage, after all pieces."""
        return {**self._event([]), "usage": usage}

    def _event(self, choices: list[Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}
