"""F-1 to F-3, F-8, F-9: a damaged model is an answer or an error of one line, in bounded time and memory.

These are a hundred or so; `benchmarks/malformed.py` plays ten thousand.
"""

import json
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parent / "malformed" / "run.py"
CASES = 160


def test_damaged_models_end_in_an_answer_or_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, RUN, tmp_path, "0", str(CASES)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == [], done.stderr
    assert result["cases"] == CASES
    # The damage is neither harmless nor all found at once.
    ends = result["ends"].values()
    assert sum(kinds.get("answered", 0) for kinds in ends) > CASES // 20
    assert sum(kinds.get("refused later", 0) for kinds in ends) > CASES // 50
