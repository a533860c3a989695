"""The plugin that a Data-Juicer recipe names. Importing it registers the operator."""

import reelscribe.integrations.data_juicer  # noqa: F401
