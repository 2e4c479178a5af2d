"""``python -m fedprivacy`` is the same program as ``fedprivacy``."""

from __future__ import annotations

import sys

from fedprivacy.cli import main

if __name__ == "__main__":
    sys.exit(main())
