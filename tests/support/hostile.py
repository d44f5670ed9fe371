"""Records of a hostile node: control characters in every text."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

# Clears the screen, sets the title, the same by one character each, a colour, a change of direction, a line of its own.
TEXT: Final = "\x1b[2J\x1b]0;owned\x07\x9b2J\x1b[8m\u202e\x08\x7f\r\nok    all is well\u2028x"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_DEPTH: Final = 4


def fill(message: Message, depth: int = _DEPTH) -> None:
    """Put :data:`TEXT` into every text of ``message`` that is empty, and an entry into every empty list and map."""
    if not depth:
        return
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        repeated = field.is_repeated
        value = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_STRING and not value:
            value.append(TEXT) if repeated else setattr(message, field.name, TEXT)
        elif field.message_type is not None and field.message_type.file.name.startswith("devopsellence/"):
            if repeated and not value:
                value.add()
            for part in value if repeated else (value,):
                fill(part, depth - 1)


def unsafe(output: str, *, coloured: bool = False) -> list[str]:
    """Return the characters of ``output`` that no terminal may get; ``coloured``: except for colours."""
    text = _COLOUR.sub("", output) if coloured else output
    return [char for char in text if char != "\n" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
