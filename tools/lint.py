"""Checks of the repository's own rules, beside ruff, mypy and import-linter. ``make lint`` runs it.

``tools/baseline.json`` counts the offences that are known, per check and file. More than that fails; the counts may
only shrink (``--shrink``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from checks import commits, names, prose, size, tests

if TYPE_CHECKING:
    from checks.offence import Offence

ROOT = Path(__file__).parent.parent
BASELINE = Path(__file__).with_name("baseline.json")
CHECKS = (
    *(prose.turns, prose.docstring_openings, size.long_files, size.long_functions, size.complexity),
    *(names.homonyms, names.bare_verbs, tests.modules_without_tests, tests.tests_without_module),
    *(tests.unasked_programs, commits.subjects),
)

Counts = Counter[tuple[str, str]]


def known_counts() -> Counts:
    """Return the counts of the baseline by check and file."""
    data = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    return Counter({(check, path): count for check, files in data.items() for path, count in files.items()})


def write(counts: Counts) -> None:
    """Write the baseline."""
    data: dict[str, dict[str, int]] = {}
    for (check, path), count in sorted(counts.items()):
        data.setdefault(check, {})[path] = count
    BASELINE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def lies_below(offence: Offence, paths: list[str]) -> bool:
    """Tell whether an offence lies below one of the paths, or none was given."""
    return not paths or any(offence.path == path or offence.path.startswith(f"{path.rstrip('/')}/") for path in paths)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="files or folders, relative to the repository; default: all")
    parser.add_argument("--all", action="store_true", help="print the known offences as well")
    parser.add_argument("--shrink", action="store_true", help="lower the baseline to what is left")
    parser.add_argument("--rebase", action="store_true", help="write the baseline again, after files were moved")
    options = parser.parse_args()

    offences = [offence for check in CHECKS for offence in check(ROOT)]
    counts = Counter((offence.check, offence.path) for offence in offences)
    allowed = known_counts()
    if options.shrink or options.rebase:
        write(counts if options.rebase else counts & allowed)
        return 0
    shown = [
        offence
        for offence in offences
        if lies_below(offence, options.paths)
        and (options.all or counts[offence.check, offence.path] > allowed[offence.check, offence.path])
    ]
    for offence in shown:
        print(offence)
    left = sum((counts & allowed).values())
    print(f"{len(shown)} to correct" + (f"; {left} known ones are left" if left else ""), file=sys.stderr)
    return 1 if any(counts[key] > allowed[key] for key in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
