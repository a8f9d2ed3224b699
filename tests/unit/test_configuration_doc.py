"""docs/CONFIGURATION.md lists every setting as it is, and nothing else."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from sfm_grpc.settings import Settings, load, variable
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(SFM_\w+)` \| (.*?) \| (.*?) \| (.*) \|$", TEXT, re.MULTILINE)}


def script() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("configuration_doc", ROOT / "scripts" / "configuration_doc.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_lists_every_setting_in_the_order_of_the_code_and_no_other() -> None:
    assert list(ROWS) == [variable(name) for name in Settings.model_fields]
    named = set(re.findall(r"SFM_[A-Z0-9_]+", TEXT)) - {"SFM_"}
    assert named <= {*ROWS, "SFM_CONFIG_FILE"}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_default_and_description_are_the_codes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field = Settings.model_fields[name]
    default, _, description = ROWS[variable(name)]
    assert description.replace(r"\|", "|") == field.description
    if default in ("unset", "empty"):
        assert field.default == {"unset": None, "empty": ""}[default]
    else:
        # Written into the environment, it changes nothing.
        monkeypatch.setenv(variable(name), default.strip("`"))
        assert load() == load({name: field.default})


def test_the_page_is_what_the_script_writes() -> None:
    assert script().page() == TEXT, "run `make docs`"
