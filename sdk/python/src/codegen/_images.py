"""Images of a prompt, from files."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Union

#: A file's path, the bytes of an image, or a data URI.
Image = Union[str, "os.PathLike[str]", bytes]

_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)


def data_uri(image: Image) -> str:
    """The image as the API takes it."""
    if isinstance(image, str) and image.startswith("data:"):
        return image
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    kind = next((kind for begin, kind in _KINDS if data.startswith(begin)), None)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        what = "these bytes are" if isinstance(image, bytes) else f"{os.fspath(image)} is"
        raise ValueError(f"{what} no PNG, JPEG, GIF or WebP image")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
