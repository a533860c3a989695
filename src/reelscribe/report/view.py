"""The page of a report on this machine's own address, with its videos: for where a file does not open, or not play.

Starlette answers with parts of files, as players ask for them, and checks the host; uvicorn serves it. The address has
a token that nobody can guess, so that no other user of this machine and no other page in the browser gets anything.
What can be asked for is the page and the videos that it shows, by their place: no address has a path in it.
"""

import mimetypes
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reelscribe.errors import SettingsError
from reelscribe.report.entries import Entry
from reelscribe.report.write import CLIPS, FRAMES, OnClip, make_page, needs_report

if TYPE_CHECKING:
    from starlette.applications import Starlette

HOST: Final = "127.0.0.1"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def view(
    output: Path,
    *,
    port: int = 0,
    clips: int = CLIPS,
    frames: int = FRAMES,
    seed: int = 0,
    root: Path | None = None,
    on_clip: OnClip = lambda total: None,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a page about the captions of a data set, until a signal comes.

    Args:
        output: the data set, as `reelscribe caption` was given it.
        port: to serve at; 0 for one that is free.
        clips: as `write_report` takes them, like those that follow.
        frames: see there.
        seed: see there.
        root: see there.
        on_clip: see there.
        on_ready: called with the page's address once it can be opened.

    Raises:
        DatasetError: there is no such data set, or it holds no captions.
        SettingsError: `clips` or `frames` is below 1, or the port cannot be had.
        MissingExtraError: the extra `report`, or what the format needs, is not installed.
    """
    with needs_report():
        import uvicorn
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # who comes before the page is ready waits
        except (OSError, OverflowError) as exc:
            raise SettingsError(f"cannot serve at port {port}: {exc}; 0 takes one that is free.") from exc
        made = make_page(output, _link, clips=clips, frames=frames, seed=seed, root=root, on_clip=on_clip)
        token = secrets.token_urlsafe(24)
        app = make_app(made.page, [answers[0] for answers in made.videos_shown], token)
        on_ready(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
        with suppress(KeyboardInterrupt):  # which is how one ends it
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def _link(entry: Entry) -> str | None:
    return f"video/{entry.row}-{entry.slot}" if entry.video.path else None


def make_app(page: bytes, entries: list[Entry], token: str) -> "Starlette":
    """The application: a page and its videos, for who knows the token.

    Args:
        page: HTML.
        entries: whose videos can be had; one of each is enough.
        token: part of every address.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, Response
    from starlette.routing import Route

    videos = {_link(entry): entry.video.path for entry in entries if entry.video.path}

    def known(request: Request) -> None:
        if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
            raise HTTPException(404)

    async def show(request: Request) -> Response:
        known(request)
        return HTMLResponse(page, headers=_HEADERS)

    async def play(request: Request) -> Response:
        known(request)
        path = videos.get(f"video/{request.path_params['place']}")
        if path is None or not path.is_file():
            raise HTTPException(404)
        kind = mimetypes.guess_type(path.name)[0] or ""
        media_type = kind if kind.startswith("video/") else "application/octet-stream"
        return FileResponse(path, media_type=media_type, headers=_HEADERS)

    return Starlette(
        routes=[Route("/{token}/", show), Route("/{token}/video/{place}", play)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )
