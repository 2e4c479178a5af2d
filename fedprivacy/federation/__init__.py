"""The federation: a Flower ServerApp, a ClientApp and the engines that run them.

Flower reads its telemetry switch when it is first imported, so it is turned off here, before any
module of this package imports Flower.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
