"""High dynamic range and wide colours to what a model was trained on: SDR with the primaries of BT.709.

Values are display light by the standards: SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG), both in Recommendation ITU-R
BT.2100; reference white at 203 cd/m2 by Report ITU-R BT.2408; conversion of primaries by Report ITU-R BT.2407; SDR
displays by Recommendation ITU-R BT.1886. All but the shape of the shoulder is theirs.

Up to the knee a picture is what its SDR version would be. Brighter light, which SDR has no values for, is rolled off
into the rest, by its brightest colour, so that hues stay (as FFmpeg's filter `tonemap` does it). The curve of Report
ITU-R BT.2390 would take more from reference white, to show detail up to 1,000 cd/m2: 230 of 255, where this is 241.
"""

from functools import cache
from typing import Final, Literal

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

ToneMap = Literal["pq", "hlg"]

_HDR: Final[dict[int, ToneMap]] = {ColorTrc.SMPTE2084: "pq", ColorTrc.ARIB_STD_B67: "hlg"}
_STEPS: Final = 1 << 16
_PEAK: Final = 10_000.0
"""The brightest light that PQ has a value for, in cd/m2. Light is in shares of it."""
_WHITE: Final = 203.0 / _PEAK
"""Reference white."""
_HLG_PEAK: Final = 1_000.0 / _PEAK
"""Of the display that HLG is shown on."""
_GAMMA: Final = 2.4
"""Of an SDR display."""
_KNEE: Final = 0.85
"""Share of SDR's range from which on light is rolled off."""
_LUMINANCE: Final = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Weights of BT.2020's colours in luminance."""
_TO_BT709: Final = {
    ColorPrimaries.BT2020: np.array(
        [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
        np.float32,
    ),
    ColorPrimaries.SMPTE432: np.array(  # of phones and cinemas, P3 with the white of daylight
        [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]], np.float32
    ),
}

Light = NDArray[np.float32]


def tone_map_of(frame: VideoFrame) -> ToneMap | None:
    """How the light of a frame is written down, if it is of high dynamic range."""
    return _HDR.get(frame.color_trc)


def is_wide(frame: VideoFrame) -> bool:
    """Whether the colours of a frame are not those of SDR."""
    return frame.color_trc in _HDR or frame.color_primaries in _TO_BT709


def to_sdr(colours: NDArray[np.uint16], frame: VideoFrame) -> NDArray[np.uint8]:
    """Bring the colours of a picture to SDR.

    Args:
        colours: shape (3, pixels): red, green and blue as the frame has them, over the whole range.
        frame: that the picture is of.

    Returns:
        The same shape.
    """
    kind = tone_map_of(frame)
    light: Light = _light(kind).take(colours)
    if kind == "hlg":
        # The display makes bright scenes brighter: light to the power of 1.2, by its luminance.
        light *= _HLG_PEAK * (_LUMINANCE @ light) ** np.float32(0.2)
    if kind:
        light *= _gain().take(_places(light.max(axis=0)))
    # HDR without a word on its primaries has those of BT.2020; there are no others in use.
    primaries = frame.color_primaries
    if kind and primaries == ColorPrimaries.UNSPECIFIED:
        primaries = ColorPrimaries.BT2020
    if primaries in _TO_BT709:
        light = _TO_BT709[ColorPrimaries(primaries)] @ light
    shown: NDArray[np.uint8] = _display().take(_places(light))
    return shown


def _places(light: Light) -> NDArray[np.uint16]:
    """Where light is in a table of its square roots, which are about as fine as the eye is."""
    places = np.clip(light, 0.0, 1.0)
    np.sqrt(places, out=places)
    places *= _STEPS - 1
    places += 0.5
    return places.astype(np.uint16)


def _steps() -> NDArray[np.float64]:
    return np.arange(_STEPS) / (_STEPS - 1)


@cache
def _light(kind: ToneMap | None) -> Light:
    """Light for each value: in shares of the peak of PQ, of the scene's peak, or of an SDR display's."""
    value = _steps()
    if kind == "pq":
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = value ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    elif kind == "hlg":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
    else:
        light = value**_GAMMA
    return light.astype(np.float32)


@cache
def _gain() -> Light:
    """By the square root of the brightest colour's light: what makes light shares of SDR's range."""
    value = np.maximum((_steps() ** 2 / _WHITE) ** (1 / _GAMMA), 1e-9)
    room = 1 - _KNEE
    rolled = np.where(value <= _KNEE, value, _KNEE + room * (1 - np.exp(-(value - _KNEE) / room)))
    gain: Light = ((rolled / value) ** _GAMMA / _WHITE).astype(np.float32)
    return gain


@cache
def _display() -> NDArray[np.uint8]:
    """Values of an SDR display for the square roots of light."""
    shown: NDArray[np.uint8] = np.round(255 * _steps() ** (2 / _GAMMA)).astype(np.uint8)
    return shown
