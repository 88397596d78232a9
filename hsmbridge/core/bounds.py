"""Types for the lists in messages: each has a length past which it is refused before anything is made of it.

A frame bounds the bytes that it carries; these bound what is made of the bytes.
"""

from typing import Annotated, Final, TypeVar

import msgspec

MANY: Final = 1024
"""The longest list of things that have a limit of their own, such as the messages of one call."""

LISTED_MAX: Final = 1 << 20
"""The longest list of what grows with a store; the frame is full before."""

_T = TypeVar("_T")

Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=MANY)]
Some = Annotated[tuple[_T, ...], msgspec.Meta(max_length=MANY)]
Few = Annotated[list[_T], msgspec.Meta(max_length=MANY)]
Listed = Annotated[list[_T], msgspec.Meta(max_length=LISTED_MAX)]
