"""The page at `/`: its files, and the headers that let it load nothing from elsewhere.

The files are read once. They hold no data: the page asks the service for that, like any other
caller. Beside it stand the other ways in (`pages`), where the service asks for no key.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from fastapi import APIRouter, Response

from serving import pages
from serving.requests import RequestError
from serving.service import Service

FILES = {
    "app.js": "text/javascript",
    "api.js": "text/javascript",
    "board.js": "text/javascript",
    "dom.js": "text/javascript",
    "flight.js": "text/javascript",
    "words.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "style.css": "text/css",
}
LINKS = b"<!-- the other ways in, as far as they are there -->"
NOTHING_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    f"connect-src 'self'; {NOTHING_ELSE}"
)


def router(service: Service) -> APIRouter:
    """The routes of the page of a service."""
    folder = Path(__file__).parent
    files = {name: (folder / name).read_bytes() for name in FILES}
    index = (folder / "index.html").read_bytes()
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> Response:
        return _answer(index.replace(LINKS, links(service)), "text/html", PAGE_POLICY)

    @routes.get("/page/{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise RequestError(404, "no_such_file", "the page has no file of this name; see /")
        return _answer(files[name], FILES[name], PAGE_POLICY)

    for way in () if service.guard.keys else pages.WAYS:
        routes.get(f"/{way.path}")(_shower(service, way))

    return routes


def _shower(service: Service, way: pages.Way) -> Callable[[], Response]:
    policy = f"default-src 'none'; {way.policy}; {NOTHING_ELSE}"

    def show() -> Response:
        file = way.file(service.bundle.folder)
        if file is None:
            raise RequestError(404, "no_such_file", f"there is no {way.title.lower()} yet")
        return _answer(file.read_bytes(), way.kind(file), policy)

    return show


def links(service: Service) -> bytes:
    """The other ways in that are there now, as links."""
    if service.guard.keys:
        return b""
    found = [(w.path, w.title) for w in pages.WAYS if w.file(service.bundle.folder) is not None]
    if service.options.features is not None:
        found.append((service.options.features, "Features"))
    return "\n      ".join(
        f'<a href="{escape(address)}">{escape(title)}</a>' for address, title in found
    ).encode()


def _answer(content: bytes, kind: str, policy: str) -> Response:
    return Response(
        content,
        media_type=f"{kind}; charset=utf-8",
        headers={
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        },
    )
