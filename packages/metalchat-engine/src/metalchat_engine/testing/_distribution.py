"""An installed distribution that holds nothing but metadata."""

from collections.abc import Mapping
from pathlib import Path


def write_distribution(
    directory: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], *, version: str = "1.0"
) -> None:
    """Write the dist-info of a distribution into `directory`, which a test then puts on `sys.path`.

    `entry_points` maps a group to its names and `module:attribute` values. With pytest:
    `monkeypatch.syspath_prepend(directory)` after writing.
    """
    info = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    sections = [
        "\n".join([f"[{group}]", *(f"{point} = {value}" for point, value in points.items())])
        for group, points in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
