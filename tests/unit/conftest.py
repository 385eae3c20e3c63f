from __future__ import annotations

import gc

from hypothesis import settings

# These tests run beside those that measure, with the processor time that is left: an example may take any time.
settings.register_profile("default", deadline=None)
if settings.get_current_profile_name() == "default":
    settings.load_profile("default")


def pytest_collection_finish() -> None:
    """Let garbage collection pass over the tests themselves: simulations make many, and each pass would look at all."""
    gc.collect()
    gc.freeze()
