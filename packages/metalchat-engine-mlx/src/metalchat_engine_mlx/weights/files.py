"""Which files of a model directory hold its weights."""

from collections.abc import Iterable
from pathlib import Path

from metalchat_engine import InvalidModel, UnsupportedModel

from metalchat_engine_mlx.strict_json import INDEX_LIMIT, read_object
from metalchat_engine_mlx.weights.header import MAX_NAME, MAX_TENSORS, Tensor, read_header

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def weight_files(directory: Path, *, name: str) -> dict[str, Tensor]:
    """All tensors of a directory: of the shards that its index names, or of its one weights file.

    `name` is what messages call the model.

    Raises:
        UnsupportedModel: there are no safetensors weights.
        InvalidModel: a damaged file, or an index that does not agree with the shards.
    """
    present = sorted(path.name for path in directory.iterdir() if path.is_file())
    if INDEX in present:
        return _sharded(directory, frozenset(present))
    weights = [file for file in present if file.endswith(".safetensors")]
    if not weights:
        pickles = [file for file in present if file.endswith(PICKLES)]
        found = f" (found {pickles[0]}, which can run code and is not read)" if pickles else ""
        raise UnsupportedModel(f"'{name}' has no safetensors weights{found}")
    if len(weights) > 1:
        if "model.safetensors" not in weights:
            raise InvalidModel(
                f"'{name}' has {len(weights)} safetensors files, but no '{INDEX}' that puts them together"
            )
        weights = ["model.safetensors"]
    return read_header(directory / weights[0])


def _sharded(directory: Path, present: frozenset[str]) -> dict[str, Tensor]:
    weight_map = read_object(directory / INDEX, limit=INDEX_LIMIT).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or len(weight_map) > MAX_TENSORS:
        raise InvalidModel(f"'{INDEX}': 'weight_map' is not a map of 1 to {MAX_TENSORS} tensors")
    for tensor, file in weight_map.items():
        if not 0 < len(tensor) <= MAX_NAME or not tensor.isprintable():
            raise InvalidModel(f"'{INDEX}': the name {tensor[:40]!a} is not 1 to {MAX_NAME} printable characters")
        if not isinstance(file, str) or file not in present or not file.endswith(".safetensors"):
            raise InvalidModel(f"'{INDEX}' names a file that is not part of the model")
    found: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        held = read_header(directory / file)
        _agree(file, held, (tensor for tensor, place in weight_map.items() if place == file))
        if len(found) + len(held) > MAX_TENSORS:
            raise InvalidModel(f"'{INDEX}' puts together more than {MAX_TENSORS} tensors")
        found |= held
    return found


def _agree(file: str, held: dict[str, Tensor], named: Iterable[str]) -> None:
    expected = set(named)
    for tensor in sorted(expected ^ held.keys()):
        where = (
            f"'{file}' does not have" if tensor in expected else f"'{file}' has, and '{INDEX}' does not place there,"
        )
        raise InvalidModel(f"{where} the tensor '{tensor[:80]}'")
