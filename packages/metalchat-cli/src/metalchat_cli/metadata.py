"""A first look at what is installed, without `importlib.metadata`, which takes longer to import than this to look."""

import os
import sys
from importlib.machinery import PathFinder


def mentioned(group: str) -> bool:
    """Whether a distribution may offer something in an entry-point group; False is certain.

    True also where only `importlib.metadata` can tell: for zip files on `sys.path`, eggs, and finders of other kinds.
    """
    if any(finder is not PathFinder and hasattr(finder, "find_distributions") for finder in sys.meta_path):
        return True
    return any(_in_folder(os.fspath(folder) or os.curdir, group.encode()) for folder in sys.path)


def _in_folder(folder: str, group: bytes) -> bool:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names alone, and hundreds of them
    except FileNotFoundError:
        return False
    except OSError:
        return True
    for name in names:
        kind = name.lower()
        if kind.endswith(".egg"):
            return True
        if kind.endswith((".dist-info", ".egg-info")):
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:  # noqa: PTH118, PTH123 - as above
                    if group in file.read():
                        return True
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return True
    return False
