"""Captioning as a stage of a Ray data set: batches of rows in, the same rows with captions out.

    data.map_batches(CaptionBatches, fn_constructor_kwargs={"settings": Settings(...)}, **CaptionBatches.ray_options())

Ray Data distributes the batches to actors, restarts actors that die, and applies backpressure.
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
    """Captions batches of rows. `Dataset.map_batches` runs it in actors.

    Rows are treated like those of a data set (see `reelscribe caption`). The layouts are the same, and columns keep
    their Arrow types. If a video cannot be captioned, only its own caption is missing, and the column `caption_failure`
    says why. The result of a row does not depend on its batch or actor.

    Args:
        settings: settings of the captions. Those of output, shards and sidecars have no effect.
        root: folder that relative paths of videos start from; the actor's working directory by default.
        engine: engine to use; by default, one is loaded by the settings.

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
        """Options for `Dataset.map_batches`: one GPU for each actor and batches of 64 rows, unless `options` differ.

        Set `concurrency` to the number of actors, or to a minimum and a maximum, as (1, 8).
        """
        return {"batch_format": "pyarrow", "batch_size": 64, "num_gpus": 1} | options

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Caption a batch; see `caption`.

        It is asynchronous because Ray then runs several batches at once (4 by default), so that the engine does not
        run out of work between batches.
        """
        return await asyncio.to_thread(self.caption, batch)

    def caption(self, batch: pa.Table) -> pa.Table:
        """Caption a batch; may be called from several threads.

        Args:
            batch: rows, with the columns of a data set.

        Returns:
            The rows, in order, with added columns.

        Raises:
            DatasetError: several columns have the same name.
            SettingsError: the rows already have a column that would be added.
            EngineError: the engine failed. Ray ends the task, and retries it as configured.
        """
        return caption_table(batch, self._settings, self._root, self._stream.send)
