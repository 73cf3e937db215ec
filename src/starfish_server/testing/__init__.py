"""Tools for testing stores and layers: the conformance suite, and stores that record or fail on purpose."""

# Each of these modules registers its behaviours.
from starfish_server.testing import conditional, content, keys, lifetime, listing, objects  # noqa: F401
from starfish_server.testing.conformance import Behaviour, Capability, behaviours, check_store
from starfish_server.testing.doubles import Fault, FaultyStore, RecordingStore
from starfish_server.testing.layers import check_layer

__all__ = [
    "Behaviour",
    "Capability",
    "Fault",
    "FaultyStore",
    "RecordingStore",
    "behaviours",
    "check_layer",
    "check_store",
]
