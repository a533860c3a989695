"""What a recipe of Data-Juicer names: importing it puts the operator in its place."""

import reelscribe.integrations.data_juicer  # noqa: F401
