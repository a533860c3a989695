"""Prometheus metrics of a run. Each collection reads the run's own counters, so there is no second set of them."""

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.runners.live import Live

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_STAGES = ("reading", "decoding", "engine", "writing")


class Metrics:
    """Serves metrics at `http://HOST:PORT/metrics`, from its construction until its context ends.

    Args:
        port: TCP port; 0 for any free one.
        host: address of this machine to listen on. Anyone who can reach it can read the metrics.

    Raises:
        MissingExtraError: prometheus-client is not installed.
        SettingsError: the server cannot listen on this port.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ModuleNotFoundError as exc:
            raise MissingExtraError("metrics need prometheus-client: pip install 'reelscribe[metrics]'") from exc
        self._live: Live | None = None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            raise SettingsError(f"metrics cannot be served at {host}:{port}: {reason}; choose another port.") from exc

    @property
    def address(self) -> str:
        """URL of the metrics."""
        host, port = self._server.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}/metrics"

    def start(self, live: Live) -> None:
        """Set the run to report on. Before this call there are no metrics."""
        self._live = live

    def collect(self) -> "Iterator[Metric]":
        """Yield the metrics. prometheus_client calls this at each collection."""
        if self._live is not None:
            yield from _figures(self._live)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _figures(live: Live) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    watch, tally = live.watch, live.tally
    info = {"engine": watch.model.engine, "model": watch.model.model, "revision": watch.model.revision or ""}
    yield InfoMetricFamily("reelscribe_run", "What is running.", info)
    counters = {
        "rows": ("Rows written.", tally.rows),
        "captions": ("Captions, of all tasks, those known from an earlier run too.", tally.captions),
        "made": ("Videos captioned or failed in this run.", tally.made),
        "clips": ("Clips that the engine has answered.", watch.clips),
        "answers": ("Requests that the engine has answered.", watch.answers),
        "tokens": ("Tokens generated.", watch.tokens),
    }
    for name, (text, value) in counters.items():
        yield CounterMetricFamily(f"reelscribe_{name}", text, value)
    failures = CounterMetricFamily(
        "reelscribe_failures", "Failures, of all tasks, and rows that failed as such.", labels=["kind"]
    )
    for kind, count in dict(tally.failures).items():
        failures.add_metric([kind], count)
    yield failures
    if tally.tasks:
        tasks = CounterMetricFamily("reelscribe_task_captions", "Captions of a task.", labels=["task"])
        failed = CounterMetricFamily("reelscribe_task_failures", "Failures of a task.", labels=["task", "kind"])
        for name, counts in tally.tasks.items():
            tasks.add_metric([name], counts.captions)
            for kind, count in dict(counts.failures).items():
                failed.add_metric([name, kind], count)
        yield from (tasks, failed)
    gauges: dict[str, tuple[str, Any]] = {
        "rows_expected": ("Rows in all.", live.total),
        "seconds": ("Since the first row was read.", watch.seconds),
        "seconds_left": ("At the rate so far.", live.seconds_left),
        "clips_per_second": ("Of the engine, so far.", watch.clips_per_second),
        "tokens_per_second": ("Generated, so far.", watch.tokens_per_second),
        "in_flight": ("Requests that the engine has and has not answered.", watch.in_flight),
        "engine_busy_share": ("Share of the time in which the engine had work.", watch.engine_busy_share),
        "cost": ("At the price that is set.", live.spending.cost),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"reelscribe_{name}", text, value)
    shares = GaugeMetricFamily("reelscribe_waited_share", "Share of the time it was waited for.", labels=["stage"])
    for stage, share in watch.shares().items():
        shares.add_metric([stage], share)
    yield shares
    slowest = GaugeMetricFamily("reelscribe_bottleneck", "1 for the stage that holds the others up.", labels=["stage"])
    for stage in _STAGES:
        slowest.add_metric([stage], float(stage == watch.bottleneck()))
    yield slowest
