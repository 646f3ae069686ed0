"""The files of the labelling page, as a fixed table: no request chooses a path on the disk."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

SCRIPT: Final = "text/javascript; charset=utf-8"
STYLE: Final = "text/css; charset=utf-8"

TEMPLATE: Final = "page.html"
"""The page itself: a Jinja2 template that takes `title`."""

ASSETS: Final[dict[str, tuple[str, str]]] = {
    "/page.css": ("page.css", STYLE),
    "/agreement.css": ("agreement.css", STYLE),
    "/page.js": ("page.js", SCRIPT),
    "/markup.js": ("markup.js", SCRIPT),
    "/keys.js": ("keys.js", SCRIPT),
    "/outbox.js": ("outbox.js", SCRIPT),
    "/view.js": ("view.js", SCRIPT),
}
"""Route to the file beside this module and its content type."""


def read(name: str) -> str:
    """The text of the template or of one of the files in `ASSETS`, by its name beside this module."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
