"""Serves the page of a report on 127.0.0.1, with its videos, so that captions can be corrected on it.

Starlette answers range requests of players and checks the Host header; uvicorn serves it. The address has a random
token, so that other users of this machine and other pages in the browser get nothing. Requests can only name the page,
and pictures and videos on it by their number: no address has a file path in it. Requests that change something must
come from the page itself: their `Origin` is checked, and they must be JSON, which browsers let no other site send.
"""

import asyncio
import json
import mimetypes
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reelscribe.dataset.formats.jsonl import to_json
from reelscribe.errors import ClipError, DatasetError, SettingsError
from reelscribe.report.editor import BadEditError, ConflictError, Editor
from reelscribe.report.entries import Entry
from reelscribe.report.following import Follower
from reelscribe.report.write import CLIPS, FRAMES, Made, make_page, needs_report

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

    from reelscribe.report.shelf import Shelf

HOST: Final = "127.0.0.1"
"""Address to serve at: only programs on this machine can reach it."""
_FIRST: Final = 40
"""Number of clips in the page itself. It asks for the others once it is loaded."""
_PIECE: Final = 200
"""Number of clips that the page gets with each such request."""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of responses: browsers cache nothing, and other sites cannot embed anything."""


def view(
    output: Path,
    *,
    port: int = 0,
    clips: int = CLIPS,
    frames: int = FRAMES,
    seed: int = 0,
    root: Path | None = None,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve a page about the captions of a data set, until a signal arrives.

    Args:
        output: the output of `reelscribe caption`, as its command names it.
        port: port to serve at; 0 for a free one.
        clips: see `write_report`.
        frames: see `write_report`.
        seed: see `write_report`.
        root: see `write_report`.
        on_ready: called with the page's address once it can be opened.

    Raises:
        DatasetError: there is no such data set, or it holds no captions.
        SettingsError: `clips` or `frames` is below 1, or the port cannot be used.
        MissingExtraError: the extra `report`, or a package that the format needs, is not installed.
    """
    with needs_report():
        import uvicorn

        from reelscribe.report.shelf import Shelf
        from reelscribe.report.thumbnails import decoding_pictures
    with socket.socket() as listening:
        # Allows to serve at the same port again at once, while old connections are still closing.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # browsers that connect before the page is made wait
        except (OSError, OverflowError) as exc:
            raise SettingsError(f"cannot serve at port {port}: {exc}; 0 takes one that is free.") from exc
        made = make_page(output, _link, clips=clips, frames=frames, seed=seed, root=root, editing=True)
        token = secrets.token_urlsafe(24)
        editor = Editor(made.data, made.answers)
        with decoding_pictures(made.data.settings) as (executor, decode_clip):
            site = Site(made, editor, Shelf(frames, executor, decode_clip), clips=clips)
            app = make_app(site, token, editor)
            on_ready(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
            with suppress(KeyboardInterrupt):  # the usual way to end it
                uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


class Site:
    """The page, pictures and videos that are served. Clips are added while a run is under way.

    Args:
        made: the page.
        editor: takes edits of captions.
        shelf: makes pictures.
        clips: maximum number of clips on the page.
    """

    def __init__(self, made: Made, editor: Editor, shelf: "Shelf", *, clips: int) -> None:
        self._made, self._editor, self.shelf = made, editor, shelf
        self._strips = shelf.add(made.videos_shown)
        self.page = made.sheet.page(self._strips, first=_FIRST)
        self.videos: dict[str | None, Path] = {}
        self._add_videos(made.videos_shown)
        self.follower: Follower | None = None
        if made.unfinished:
            room = clips - len(made.videos_shown)
            self.follower = Follower(made.data, most=room, show=self._show)

    def clips_from(self, start: int) -> dict[str, Any]:
        """The next clips of the page from number `start` on, at most `_PIECE`. Returns their HTML under `clips`."""
        return {"clips": self._made.sheet.piece(self._strips, start, _PIECE)}

    def _add_videos(self, videos: list[tuple[Entry, ...]]) -> None:
        paths = {_link(answers[0]): answers[0].video.path for answers in videos}
        self.videos |= {link: path for link, path in paths.items() if path}

    def _show(self, videos: list[tuple[Entry, ...]]) -> list[str]:
        """Add clips to the page, so that they can be edited and played. Returns their HTML."""
        from reelscribe.report.page import identifiers, render_clips

        several = self._made.several
        entries = [entry for answers in videos for entry in answers]
        self._editor.add(dict(zip(identifiers(entries, several=several), entries, strict=True)))
        self._add_videos(videos)
        return render_clips(videos, self.shelf.add(videos), link=_link, several=several)


def _link(entry: Entry) -> str | None:
    """Address of an entry's video, relative to the page; None if there is no file."""
    return f"video/{entry.row}-{entry.slot}" if entry.video.path else None


def _count(text: str) -> int:
    """Parse a number in an address; 0 if it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


_MOST_BYTES: Final = 1 << 20
"""Maximum bytes of a request's body."""


async def _sent(request: "Request") -> Mapping[str, Any]:
    """Read the JSON object that the page sent. Raises HTTPException if it may come from elsewhere, or is none."""
    from starlette.exceptions import HTTPException

    headers = request.headers
    if headers.get("origin") != f"http://{headers['host']}":  # TrustedHostMiddleware checked the host
        raise HTTPException(403)
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403)
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415)
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            raise HTTPException(413)
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise HTTPException(400) from exc
    if not isinstance(told, dict):
        raise HTTPException(400)
    return told


def make_app(site: Site, token: str, editor: Editor) -> "Starlette":
    """Make the application that serves the page, its pictures and its videos, under addresses with the token.

    Args:
        site: what to serve.
        token: first part of every address.
        editor: takes edits of captions.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, Response
    from starlette.routing import Route

    from reelscribe.report.thumbnails import cannot_show

    def known(request: Request) -> None:
        if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
            raise HTTPException(404)

    async def show(request: Request) -> Response:
        known(request)
        return HTMLResponse(site.page, headers=_HEADERS)

    async def play(request: Request) -> Response:
        known(request)
        path = site.videos.get(f"video/{request.path_params['place']}")
        if path is None or not path.is_file():
            raise HTTPException(404)
        kind = mimetypes.guess_type(path.name)[0] or ""
        media_type = kind if kind.startswith("video/") else "application/octet-stream"
        return FileResponse(path, media_type=media_type, headers=_HEADERS)

    async def show_frame(request: Request) -> Response:
        known(request)
        pictures = site.shelf.pictures(request.path_params["place"])
        if pictures is None:
            raise HTTPException(404)
        try:
            found = await asyncio.wrap_future(pictures)
        except ClipError as exc:  # the page shows why
            return Response(cannot_show(exc), 404, headers=_HEADERS, media_type="text/plain")
        number = request.path_params["number"]
        if number >= len(found):
            raise HTTPException(404)
        return Response(found[number].jpeg, headers=_HEADERS, media_type="image/jpeg")

    def told(values: Mapping[str, Any], status: int = 200) -> Response:
        # Starlette's JSONResponse fails on half a surrogate pair, which captions and a log may hold.
        return Response(to_json(values), status, headers=_HEADERS, media_type="application/json")

    async def answer(act: Callable[..., dict[str, Any]], *asked: Any) -> Response:
        try:
            return told(await run_in_threadpool(act, *asked))
        except BadEditError as exc:
            return told({"problem": str(exc)}, 400)
        except ConflictError as exc:
            return told({"problem": str(exc), **exc.told}, 409)
        except DatasetError as exc:  # a full disk, say
            return told({"problem": str(exc)}, 500)

    def telling(name: str, act: Callable[[int], dict[str, Any]] | None) -> Callable[[Request], Any]:
        async def tell(request: Request) -> Response:
            known(request)
            if act is None:
                raise HTTPException(404)
            return await answer(act, _count(request.query_params.get(name, "")))

        return tell

    def changing(act: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
        async def change(request: Request) -> Response:
            known(request)
            return await answer(act, await _sent(request))

        return change

    return Starlette(
        routes=[
            Route("/{token}/", show),
            Route("/{token}/video/{place}", play),
            Route("/{token}/frames/{place}/{number:int}", show_frame),
            Route("/{token}/clips", telling("from", site.clips_from)),
            Route("/{token}/states", telling("since", editor.states)),
            Route("/{token}/news", telling("seen", site.follower.news if site.follower else None)),
            Route("/{token}/change", changing(editor.change), methods=["POST"]),
            Route("/{token}/undo", changing(editor.undo), methods=["POST"]),
            Route("/{token}/replace", changing(editor.replace), methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )
