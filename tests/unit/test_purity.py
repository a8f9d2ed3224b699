"""Invariant 4: no cognition in the data plane. Nearest neighbours of a caller's own vector are index access, and stay."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sfm.v1 import health_pb2, rho_store_pb2

from sfm_grpc.settings import Settings
from tests.support.paths import ROOT, SOURCE

# What models, learns, clusters or searches; and what would bring such things along.
COGNITIVE_PACKAGES = {
    "annoy",
    "faiss",
    "gensim",
    "hnswlib",
    "jax",
    "keras",
    "langchain",
    "lightgbm",
    "networkx",
    "nltk",
    "openai",
    "pynndescent",
    "sentence_transformers",
    "sklearn",
    "spacy",
    "statsmodels",
    "tensorflow",
    "tiktoken",
    "torch",
    "transformers",
    "umap",
    "xgboost",
}
COGNITIVE_WORDS = {
    "anomalies",
    "anomaly",
    "cluster",
    "cosine",
    "decay",
    "embed",
    "embedding",
    "embeddings",
    "forest",
    "infer",
    "predict",
    "rank",
    "ranking",
    "recall",
    "relevance",
    "rerank",
    "score",
    "scores",
    "shortest",
    "similarity",
}
MODULES = sorted(SOURCE.rglob("*.py"))


def words(name: str) -> set[str]:
    """`rerankMemories`, `rerank_memories` → rerank, memories."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def defined(tree: ast.AST) -> Iterator[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    yield from (node.name for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_module_neither_imports_nor_defines_cognition(module: Path) -> None:
    tree = ast.parse(module.read_text())
    assert {name.partition(".")[0] for name in imported(tree)} & COGNITIVE_PACKAGES == set()
    assert {name for name in defined(tree) if words(name) & COGNITIVE_WORDS} == set()


def test_no_dependency_brings_cognition_along() -> None:
    for file in (ROOT / "pyproject.toml", ROOT / "requirements" / "dev.txt"):
        named = {n.lower().replace("-", "_") for n in re.findall(r"^\s*\"?([A-Za-z0-9_.-]+)", file.read_text(), re.MULTILINE)}
        assert named & (COGNITIVE_PACKAGES | {"scikit_learn"}) == set()


def test_no_rpc_nor_field_is_cognitive() -> None:
    names = []
    for file in (rho_store_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            names += [service.name, *(method.name for method in service.methods)]
        for message in file.message_types_by_name.values():
            names += [message.name, *(f.name for f in message.fields)]
    assert names
    assert [name for name in names if words(name) & COGNITIVE_WORDS] == []


def test_no_setting_turns_cognition_on() -> None:
    assert [name for name in Settings.model_fields if words(name) & COGNITIVE_WORDS] == []


def test_the_words_are_found_where_they_hide() -> None:
    hidden = ["RerankMemories", "score_recall", "HTTPEmbedding", "_rank", "AnomalyScore2"]
    assert all(words(name) & COGNITIVE_WORDS for name in hidden)
    assert not any(words(name) & COGNITIVE_WORDS for name in ["scored", "embedded", "franked", "RecallingIt", "rho_store"])
