"""What the agent answers when it will not do what was asked: a gRPC status and a sentence for the person who asked."""

from __future__ import annotations

import grpc


class Refusal(Exception):
    """A call is refused; ``sentence`` becomes the details of the status."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
