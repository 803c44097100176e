"""Builds every package into dist/: a source distribution, a wheel made from it, and constraints in wheels.txt.

A constraint installs nothing; these say that a metalchat package, if something declares it, is the wheel that was
just built, never one of the same version from an index.
"""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    for package in sorted((ROOT / "packages").glob("*/pyproject.toml")):
        command = [os.environ.get("HATCH_UV", "uv"), "build", "--quiet", "--out-dir", str(DIST)]
        subprocess.run([*command, str(package.parent)], check=True)
    wheels = sorted(DIST.glob("*.whl"))
    lines = [f"{wheel.name.split('-')[0].replace('_', '-')} @ {wheel.as_uri()}\n" for wheel in wheels]
    (DIST / "wheels.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
