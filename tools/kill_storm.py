"""Kill 1,000 helpers of guarded programs (or as many as the argument says): no connect may hang or be lost.

Run: ``python tools/kill_storm.py [COUNT]``. The test of the same name in tests/guards/program kills 150.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = "tests/guards/program/test_monitor.py"


def main() -> int:
    """Run the tests that kill helpers with the full count."""
    count = sys.argv[1] if len(sys.argv) > 1 else "1000"
    command = [sys.executable, "-m", "pytest", TESTS, "-q", "-n", "0", "-k", "killed or replaced", "--timeout=3000"]
    return subprocess.call(command, cwd=ROOT, env={**os.environ, "TAILBITE_STORM": count})


if __name__ == "__main__":
    sys.exit(main())
