"""Options of an export, checked against what the target takes."""

from dataclasses import dataclass
from typing import Final

from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.export.choices import Newlines, Placing, TargetName
from reelscribe.export.targets import TARGETS, Form, Target
from reelscribe.export.writers import check_installed

CLIPS_PER_TAR: Final = 1000
"""Default number of clips in a tar file."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export."""

    target: TargetName
    """A name in `TARGETS`."""
    form: str | None = None
    """Name of a form of the target; the first one by default."""
    tasks: tuple[str, ...] = ()
    """Tasks whose answers are exported; the only task by default."""
    where: tuple[str, ...] = ()
    """Conditions that a caption must meet; see `reelscribe.export.where`."""
    newlines: Newlines | None = None
    """How newlines are handled; by default as the target needs."""
    strip_openings: bool = False
    """Whether to remove openings such as "The video shows"; see `Wording` for this and the next three."""
    trigger: str = ""
    prefix: str = ""
    suffix: str = ""
    videos: Placing | None = None
    """How videos are placed in the folder; the target's first way by default."""
    columns: tuple[str, ...] = ()
    """Columns of a table, or columns besides the caption if the target takes more."""
    max_tokens: int | None = None
    """Maximum tokens of a caption; the target's by default. Needs a tokenizer."""
    tokenizer: str | None = None
    """Folder of a tokenizer."""
    clips_per_tar: int | None = None
    """Clips in each tar file; `CLIPS_PER_TAR` by default."""
    root: str | None = None
    """Folder that relative paths of videos start from; the run's own by default."""


def form_of(options: ExportOptions) -> tuple[Target, Form]:
    """The target and the form that options name.

    Raises:
        SettingsError: there is no such target or form.
        MissingExtraError: a package that the form needs is not installed.
    """
    target = TARGETS.get(options.target)
    if target is None:
        raise SettingsError(f"there is no target {options.target!r}; {did_you_mean(options.target, list(TARGETS))}")
    name = options.form or next(iter(target.forms))
    if name not in target.forms:
        raise SettingsError(f"{target.title} has no form {name!r}; {did_you_mean(name, list(target.forms))}")
    check_installed(name)
    return target, target.forms[name]


def check_options(options: ExportOptions, target: Target, form: Form) -> None:
    """Raise SettingsError if an option does not go with the target."""
    if options.videos is not None and options.videos not in form.placings:
        raise SettingsError(
            f"{target.title} does not take --videos {options.videos}; it takes {', '.join(form.placings)}."
        )
    newlines = options.newlines or form.newlines[0]
    if newlines not in form.newlines:
        raise SettingsError(f"{target.title} does not take --newlines {newlines}; it takes {', '.join(form.newlines)}.")
    if newlines != "keep":
        for name in ("trigger", "prefix", "suffix"):
            if len(getattr(options, name).splitlines()) > 1:
                raise SettingsError(f"--{name} has several lines, and {target.title} is to get one; write it in one.")
    if options.columns and form.columns is None:
        raise SettingsError(f"{target.title} does not take --columns: its lists have columns of their own.")
    if options.max_tokens is not None and options.max_tokens < 1:
        raise SettingsError(f"--max-tokens must be a whole number of at least 1; got {options.max_tokens!r}.")
    if options.max_tokens and not options.tokenizer:
        raise SettingsError("--max-tokens needs --tokenizer, the folder of the text encoder's tokenizer.")
    if options.clips_per_tar is not None and not form.in_tars:
        raise SettingsError(f"{target.title} does not take --clips-per-tar: it writes no tar files.")
    if options.clips_per_tar is not None and options.clips_per_tar < 1:
        raise SettingsError(f"--clips-per-tar must be a whole number of at least 1; got {options.clips_per_tar!r}.")
