"""Every Python block of the documentation runs, page by page, each page in one namespace."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if BLOCK.search(path.read_text()))


def test_the_pages_with_code_are_found():
    assert {"tour.md", "determinism.md", "store-format.md", "how-to/add-a-learner.md"} <= set(PAGES)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves closing to the collector
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # so that what a page defines can be pickled
    namespace = vars(module)
    for number, block in enumerate(BLOCK.findall((DOCS / page).read_text())):
        exec(compile(block, f"{page} block {number}", "exec", dont_inherit=True), namespace)
    assert len(namespace) > 10
