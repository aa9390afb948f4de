"""The page at `/`: its files, and the headers that let it load nothing from elsewhere.

The files are read once. They hold no data: the page asks the service for that, like any other
caller. Beside it stands the model's report (`/report`), where the service asks for no key.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

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
REPORT_LINK = b'<a href="report">Model report</a>'
NOTHING_ELSE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    f"connect-src 'self'; {NOTHING_ELSE}"
)
REPORT_POLICY = (  # one file, with its style and pictures in it
    f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; {NOTHING_ELSE}"
)


def router(service: Service) -> APIRouter:
    """The routes of the page of a service."""
    folder = Path(__file__).parent
    files = {name: (folder / name).read_bytes() for name in FILES}
    index = (folder / "index.html").read_bytes()
    report = service.options.run.resolve() / "report.html"
    has_report = report.is_file() and not service.guard.keys
    if not has_report:
        index = index.replace(REPORT_LINK, b"")
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> Response:
        return _answer(index, "text/html", PAGE_POLICY)

    @routes.get("/page/{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise RequestError(404, "no_such_file", "the page has no file of this name; see /")
        return _answer(files[name], FILES[name], PAGE_POLICY)

    if has_report:

        @routes.get("/report")
        async def model_report() -> Response:
            return _answer(report.read_bytes(), "text/html", REPORT_POLICY)

    return routes


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
