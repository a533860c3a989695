"""The film that a thread decoded a stretch of last. It stays open, so that the next stretch needs no pass of its own.

A stretch that begins between keyframes needs the frames since the last keyframe. The decoder of the stretch before has
them already. If decoding cannot continue from there, it starts at the stretch's own keyframe.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from av.video.frame import VideoFrame

from reelscribe.values import Clip
from reelscribe.video.checked import Timed, decode_run, set_up, watched
from reelscribe.video.opening import open_clip, video_stream
from reelscribe.video.passes import Order
from reelscribe.video.recent import stamp_of
from reelscribe.video.runs import SKIP_GAIN, Run, VideoPacket, read_runs, suffice

_of_thread = threading.local()


class Film:
    """An open file, with its decoder at the position after the last frame that was taken.

    Args:
        order: of the first stretch to decode.
        run: the packets that it takes, from a keyframe on.
        size: width and height of its pictures, as it states them.
        seek: whether to look the keyframe up, and not to read the file up to it.

    Raises:
        ClipError: kind "decode": the seek missed.
    """

    def __init__(self, order: Order, run: Run, size: tuple[int, int], *, seek: bool) -> None:
        self.index, self.size = order.index, size
        self.stamp = stamp_of(order.clip)
        """Identity of the file's present content; None if it cannot be had. A file that changed is opened again."""
        self._container = open_clip(order.clip)
        self.stream = video_stream(self._container, order.clip)
        set_up(self.stream, order.threads)
        self._run = Run(packets=range(run.packets.start, self.index.num_packets), keyframe=run.keyframe)
        packets = next(read_runs(self.index, order.clip, self._container, self.stream, [self._run], seek=seek))
        self._frames: Timed = decode_run(self.index, self.stream, self._run, self._needed(packets))
        self._last: tuple[int, VideoFrame] | None = None
        self._unneeded: frozenset[int] = frozenset()

    def leads_to(self, order: Order) -> bool:
        """Whether continuing from here is the shortest way to the frames of a stretch, if they can be relied on."""
        index, first = self.index, order.shown.pts[0]
        if self._last is None or self._last[0] > first or not suffice(index, order.shown.pts):
            return False
        keyframe = index.keyframes[bisect_right(index.keyframes, first) - 1]
        return index.packets[keyframe] - index.packets[self._last[0]] < SKIP_GAIN

    def frames_to(self, order: Order) -> Timed:
        """Decode the frames up to the last of a stretch. Raises if one that it needs is damaged or missing.

        Unwanted frames that no other refers to are not decoded. The others in front of the stretch may be referred to.
        """
        index, shown, wanted = self.index, order.shown.pts, {*order.wanted, order.shown.pts[-1]}
        begin = self._last[0] if self._last else self._run.keyframe
        ahead = index.pts[bisect_left(index.pts, begin) : bisect_right(index.pts, shown[-1])]
        due = index.due.intersection(ahead)
        # In place of a frame that is a repetition, the one before it is needed.
        self._unneeded = index.unreferenced.intersection(ahead) - wanted if wanted <= due else frozenset()
        return watched(order, self._run, self._until(shown[-1]), set(due - self._unneeded))

    def _needed(self, packets: Iterator[VideoPacket]) -> Iterator[VideoPacket]:
        return (packet for packet in packets if packet.pts not in self._unneeded)

    def _until(self, end: int) -> Iterator[tuple[int, VideoFrame]]:
        if self._last:
            yield self._last  # it may be on screen when the stretch begins
        for pts, frame in self._frames:
            self._last = pts, frame
            if pts <= end:
                yield pts, frame
            if pts >= end:
                return


def keep_film(film: Film) -> None:
    """Keep a film open for the thread's next stretch."""
    if film.stamp is not None:
        _of_thread.film = film


def take_film(clip: Clip) -> Film | None:
    """The film that this thread kept, if a clip is a stretch of it. Otherwise the kept film is closed."""
    film: Film | None = _of_thread.__dict__.pop("film", None)
    return film if film and film.stamp == stamp_of(clip) else None
