"""What `starfish serve --metrics-port` answers: OpenTelemetry's metrics of this process, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.errors import StackError
from starfish_server.layers import Metrics
from starfish_server.layers.base import stores_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from starfish_server.storage.base import AbstractObjectStore


def prometheus(store: AbstractObjectStore) -> ASGIApp:
    """Return an application that answers with the metrics of this process.

    They cover the store's operations, by its `Metrics` layers; requests, by FastAPI; and memory, CPU time and
    file descriptors. Raises `StackError` for a store without a `Metrics` layer.
    """
    if not any(isinstance(part, Metrics) for part in stores_of(store)):
        raise StackError('--metrics-port needs a [[layer]] with type = "Metrics" in the stack')
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.metrics import get_meter_provider, set_meter_provider
        from opentelemetry.sdk.metrics import MeterProvider
        from prometheus_client import make_asgi_app
    except ImportError as error:
        raise ImportError("--metrics-port needs: pip install 'starfish-server[metrics]'") from error
    reader, provider = PrometheusMetricReader(), get_meter_provider()
    if not isinstance(provider, MeterProvider):
        set_meter_provider(MeterProvider([reader]))
    elif hasattr(provider, "add_metric_reader"):  # set by opentelemetry-instrument; another would be ignored
        provider.add_metric_reader(reader)
    else:
        raise ImportError("--metrics-port under opentelemetry-instrument needs a newer opentelemetry-sdk")
    return make_asgi_app()
