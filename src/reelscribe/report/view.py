"""The page of a report on this machine's own address, with its videos, where captions can be corrected.

Starlette answers with parts of files, as players ask for them, and checks the host; uvicorn serves it. The address has
a token that nobody can guess, so that no other user of this machine and no other page in the browser gets anything.
What can be asked for is the page and the videos that it shows, by their place: no address has a path in it. What
changes something must come from the page itself: browsers say so in `Origin`, and let no other site send JSON.
"""

import json
import mimetypes
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reelscribe.dataset.formats.jsonl import to_json
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.report.editor import BadEditError, ConflictError, Editor
from reelscribe.report.entries import Entry
from reelscribe.report.following import Follower
from reelscribe.report.overview import shown_of
from reelscribe.report.write import CLIPS, FRAMES, Made, OnClip, make_page, needs_report

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

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
        made = make_page(output, _link, clips=clips, frames=frames, seed=seed, root=root, on_clip=on_clip, editing=True)
        token = secrets.token_urlsafe(24)
        editor = Editor(made.data, made.answers)
        site = _Site(made, editor, clips=clips, frames=frames)
        app = make_app(made.page, site.videos, token, editor, site.follower)
        on_ready(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
        with suppress(KeyboardInterrupt):  # which is how one ends it
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


class _Site:
    """What is served: it grows while a run goes on."""

    def __init__(self, made: Made, editor: Editor, *, clips: int, frames: int) -> None:
        self._made, self._editor, self._frames = made, editor, frames
        self.videos: dict[str | None, Path] = {}
        self._add_videos(made.videos_shown)
        self.follower: Follower | None = None
        if made.unfinished:
            room = clips - len(made.videos_shown)
            self.follower = Follower(made.data, rows=made.rows, most=room, show=self._show)

    def _add_videos(self, videos: list[tuple[Entry, ...]]) -> None:
        paths = {_link(answers[0]): answers[0].video.path for answers in videos}
        self.videos |= {link: path for link, path in paths.items() if path}

    def _show(self, videos: list[tuple[Entry, ...]]) -> list[str]:
        """The HTML of clips that come to the page, which can be corrected and played from now on."""
        from reelscribe.report.page import identifiers, render_clips
        from reelscribe.report.thumbnails import filmstrips

        data, several = self._made.data, self._made.several
        strips = list(filmstrips(list(map(shown_of, videos)), most_frames=self._frames, settings=data.settings))
        entries = [entry for answers in videos for entry in answers]
        self._editor.add(dict(zip(identifiers(entries, several=several), entries, strict=True)))
        self._add_videos(videos)
        return render_clips(videos, strips, link=_link, several=several)


def _link(entry: Entry) -> str | None:
    return f"video/{entry.row}-{entry.slot}" if entry.video.path else None


def _count(text: str) -> int:
    """A number in an address; 0 for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


_MOST_BYTES: Final = 1 << 20
"""Of what a page sends."""


async def _sent(request: "Request") -> Mapping[str, Any]:
    """What the page itself sent; raises for all that may come from elsewhere."""
    from starlette.exceptions import HTTPException

    headers = request.headers
    if headers.get("origin") != f"http://{headers['host']}":  # the host was checked
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


def make_app(
    page: bytes, videos: Mapping[str | None, Path], token: str, editor: Editor, follower: Follower | None = None
) -> "Starlette":
    """The application: a page and its videos, for who knows the token.

    Args:
        page: HTML.
        videos: that can be had, by their part of the address. There may be more later.
        token: part of every address.
        editor: takes what the page changes.
        follower: knows what comes to it.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, Response
    from starlette.routing import Route

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

    def told(values: Mapping[str, Any], status: int = 200) -> Response:
        # Starlette's own JSON breaks on half a surrogate pair, which captions and a log may hold.
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

    async def tell_states(request: Request) -> Response:
        known(request)
        return await answer(editor.states, _count(request.query_params.get("since", "")))

    async def tell_news(request: Request) -> Response:
        known(request)
        if follower is None:
            raise HTTPException(404)
        return await answer(follower.news, _count(request.query_params.get("seen", "")))

    def changing(act: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
        async def change(request: Request) -> Response:
            known(request)
            return await answer(act, await _sent(request))

        return change

    return Starlette(
        routes=[
            Route("/{token}/", show),
            Route("/{token}/video/{place}", play),
            Route("/{token}/states", tell_states),
            Route("/{token}/news", tell_news),
            Route("/{token}/change", changing(editor.change), methods=["POST"]),
            Route("/{token}/undo", changing(editor.undo), methods=["POST"]),
            Route("/{token}/replace", changing(editor.replace), methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )
