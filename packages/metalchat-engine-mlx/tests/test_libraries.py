"""Which BLAS multiplies on a CPU, and when weights are turned to float32 for it."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metalchat_engine import EngineSettings, GenerationRequest, ModelSource, Sampling, UnsupportedRequest
from metalchat_engine.testing import collect
from metalchat_engine_mlx import MlxEngine, blas, gemm, libraries
from metalchat_engine_mlx.gemm import choose
from metalchat_engine_mlx.libraries import numpy_library
from metalchat_engine_mlx.pool import Pool
from metalchat_engine_mlx.testing import write_tiny_model

# As slow and as plain as can be.
SOURCE = """
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            float sum = 0;
            for (int l = 0; l < k; l++) sum += a[i * lda + l] * (tb == 111 ? b[l * ldb + j] : b[j * ldb + l]);
            c[i * ldc + j] = SCALE * sum;
        }
}
"""
CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("blas"))


def built(folder: Path, scale: str = "1") -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (folder / "blas.c").write_text(SOURCE.replace("SCALE", scale))
    target = folder / "libplain.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", target, folder / "blas.c"], check=True)
    return target


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "packed", bits=4)


def estimate(path: Path, context: int | None = None, **extra: Any) -> Any:
    settings = EngineSettings(context_length=context, extra=CPU | extra)
    return MlxEngine().estimate(ModelSource(path=path), settings)


def answer(path: Path, **extra: Any) -> tuple[str, int]:
    with MlxEngine().load(ModelSource(path=path), EngineSettings(extra=CPU | extra)) as model:
        request = GenerationRequest(prompt="the water is hot", sampling=Sampling(temperature=0), max_tokens=8)
        return collect(model, request).text, model.info.memory_bytes


@pytest.mark.parametrize("rows", [1, 2, 5, 9, 40])
def test_every_library_multiplies_alike(rows: int, library: Path) -> None:
    random = np.random.default_rng(rows)
    x, w = (random.standard_normal(shape).astype(np.float32) for shape in ((rows, 96), (96, 640)))
    wanted = x.astype(np.float64) @ w
    for found in (choose(library), gemm.numpy_blas(), choose(None)):
        pool = Pool(2, found)
        np.testing.assert_allclose(blas.multiply_wide(x, w, pool), wanted, atol=1e-4)
        out = np.empty((rows, 640), np.float32)
        found.multiply(x, np.ascontiguousarray(w.T).T, out)
        np.testing.assert_allclose(out, wanted, atol=1e-4)
        pool.close()


def test_a_library_by_name_answers_with_the_same_tokens(packed: Path, library: Path) -> None:
    plain = answer(packed, weights="packed")
    assert answer(packed, weights="float32", blas=str(library))[0] == plain[0]
    assert answer(packed, weights="packed", blas=str(library)) == plain


def test_a_library_that_cannot_be_used_is_refused_by_name(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library" * 100)
    for path in (tmp_path / "none.so", tmp_path / "text.so"):
        with pytest.raises(UnsupportedRequest, match=f"^the BLAS '{path}' cannot be used: ") as caught:
            answer(packed, blas=str(path))
        assert caught.value.option == "blas"
    (tmp_path / "wrong").mkdir()
    with pytest.raises(UnsupportedRequest, match=r"multiplies wrongly; one with integers of 32 bits is needed"):
        answer(packed, blas=str(built(tmp_path / "wrong", scale="2")))
    for wrong in ("libblas.so", 3, ""):
        with pytest.raises(UnsupportedRequest, match="'blas' must be the absolute path of a library"):
            answer(packed, blas=wrong)


def test_weights_are_widened_where_that_is_fast_and_fits(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "installed_mkl", lambda: None)
    monkeypatch.setattr(libraries, "numpy_library", lambda: ("NumPy's OpenBLAS 1", True))
    wide = estimate(packed)
    narrow = estimate(packed, weights="packed")
    assert wide.weights == 108864 * 4
    assert narrow.weights < wide.weights / 4
    assert wide.reason.endswith(" available, multiplied by NumPy's OpenBLAS 1")
    assert wide.reason.startswith("float32, 0.4 MB of the ")
    assert narrow.reason == "as in the files, as 'weights' of the settings says"
    tight = estimate(packed, memory_limit=2 * wide.weights - 2)
    assert tight.weights == narrow.weights
    assert tight.reason == "as in the files: in float32 they would take 0.4 MB of the 0.9 MB available"
    crowded = estimate(packed, 100, memory_limit=2 * wide.weights)
    assert crowded.reason == "as in the files: in float32 they would leave too little memory for the context"
    assert estimate(packed, weights="float32", memory_limit=10).weights == wide.weights
    monkeypatch.setattr(libraries, "numpy_library", lambda: ("NumPy's own products", False))
    slow = estimate(packed)
    assert slow.weights == narrow.weights
    assert "there is no fast BLAS; install metalchat-engine-mlx[mkl], or name one with 'blas'" in slow.reason
    monkeypatch.setattr(libraries, "installed_mkl", lambda: (Path("/lib/libmkl_rt.so"), "MKL 9"))
    assert estimate(packed).reason.endswith("multiplied by MKL 9")


@pytest.mark.parametrize("kind", [{"bits": 4}, {"bits": 8}, {"bits": 6}, {"dtype": "bfloat16"}, {"dtype": "float32"}])
def test_wide_weights_are_held_once_and_say_the_same(kind: dict[str, Any], tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path, tie_word_embeddings=False, **kind)
    wide, narrow = answer(path, weights="float32"), answer(path, weights="packed")
    assert wide[0] == narrow[0]
    for (_, held), weights in ((wide, "float32"), (narrow, "packed")):
        # Beside the weights there are keys and values of the answer, and a few constants.
        predicted = estimate(path, weights=weights).weights
        assert predicted <= held < predicted * 1.02 + 20_000


def test_a_gpu_takes_no_settings_of_a_cpu(packed: Path) -> None:
    from metalchat_engine_mlx.checkpoint import read_checkpoint
    from metalchat_engine_mlx.libraries import with_weights
    from metalchat_engine_mlx.memory import Demand
    from metalchat_engine_mlx.settings import MlxSettings

    demand = Demand.of(read_checkpoint(ModelSource(path=packed)), EngineSettings(), MlxSettings(), on_cpu=False)
    assert with_weights(demand, EngineSettings(), 10**9) == (demand, None)
    forced = replace(demand, own=MlxSettings(weights="float32"))
    with pytest.raises(
        UnsupportedRequest, match="engine setting 'weights' is for a CPU; unset it, or set device to cpu"
    ):
        with_weights(forced, EngineSettings(), 10**9)


def test_what_numpy_was_built_with_is_read_without_importing_it() -> None:
    name, is_fast = numpy_library()
    found: Any = np.show_config(mode="dicts")
    facts = found["Build Dependencies"]["blas"]
    assert str(facts["version"]) in name
    assert is_fast == any(each in facts["name"] for each in ("openblas", "accelerate", "mkl", "blis"))


def test_the_engine_says_what_multiplies(library: Path) -> None:
    lines = MlxEngine().diagnose(EngineSettings(extra=CPU | {"threads": 2}))
    assert lines[0].startswith("on the CPU, 2 threads, products by ")
    assert "GFLOP/s" in lines[0]
    named = MlxEngine().diagnose(EngineSettings(extra=CPU | {"blas": str(library)}))
    assert str(library) in named[0]
    with pytest.raises(UnsupportedRequest, match="cannot be used"):
        MlxEngine().diagnose(EngineSettings(extra=CPU | {"blas": "/nothing.so"}))
