"""A stage of a Ray data set: batches of rows in, the same rows with captions out.

    data.map_batches(CaptionBatches, fn_constructor_kwargs={"settings": Settings(...)}, **CaptionBatches.ray_options())

Ray Data deals the batches out to actors, starts dead ones again, and holds back what comes too fast.
"""

import asyncio
from pathlib import Path
from typing import Any

from reelscribe.config import Settings
from reelscribe.dataset.formats import Record
from reelscribe.engines import load_engine
from reelscribe.engines.base import Engine
from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.runners.stream import SharedStream
from reelscribe.values import RowResult

try:
    import pyarrow as pa

    from reelscribe.integrations.tables import caption_records, caption_table
except ModuleNotFoundError as exc:
    raise MissingExtraError("a stage of a Ray data set needs pyarrow: pip install 'reelscribe[ray]'") from exc


class CaptionBatches:
    """Captions batches of rows; what `Dataset.map_batches` makes an actor of.

    Rows are treated as those of a data set (see `reelscribe caption`): the layouts are the same, columns keep their
    Arrow types, and a video that cannot be captioned costs its own caption, and is told in the column
    `caption_failure`. What a row gets does not depend on the batch or the actor that it comes to.

    Args:
        settings: what to do. Those of output, shards and sidecars have no part here.
        root: folder that relative paths of videos start from; the actor's working directory by default.
        engine: loaded as the settings say, by default.

    Raises:
        SettingsError, ModelError, MissingExtraError: as `load_engine` does.
    """

    def __init__(self, settings: Settings, root: str | None = None, *, engine: Engine | None = None) -> None:
        if settings.split is not None:
            raise SettingsError("a stage splits no videos; split them beforehand, with reelscribe.split.")
        self._settings = settings
        self._root = Path(root) if root else None
        loaded = engine or load_engine(settings)
        self._stream: SharedStream[Record, RowResult] = SharedStream(
            lambda records: caption_records(records, settings, loaded)
        )

    @staticmethod
    def ray_options(**options: Any) -> dict[str, Any]:
        """Options for `Dataset.map_batches`: one GPU for each actor and batches of 64 rows, unless told otherwise.

        Set `concurrency` to the number of actors, or to the fewest and the most, as (1, 8).
        """
        return {"batch_format": "pyarrow", "batch_size": 64, "num_gpus": 1} | options

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Caption a batch while others are on their way, as Ray does with what is asynchronous (4 at a time).

        So the engine does not run dry between batches. See `caption`.
        """
        return await asyncio.to_thread(self.caption, batch)

    def caption(self, batch: pa.Table) -> pa.Table:
        """Caption a batch; may be called from several threads.

        Args:
            batch: rows, with the columns that a data set has.

        Returns:
            The rows, in order, with the columns that are added.

        Raises:
            DatasetError: columns cannot be told apart.
            SettingsError: there is a column that would be added.
            EngineError: the engine broke. Ray ends the actor's task, and tries it again as it was told to.
        """
        return caption_table(batch, self._settings, self._root, self._stream.send)
