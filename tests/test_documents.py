"""What the READMEs say is what was measured, and what they name is there."""

import re

import documents
import pytest

from lic import locate
from lic.weights import OLDER


@pytest.mark.parametrize("document", documents.DOCUMENTS, ids=["README", "weights"])
def test_tables_hold_the_measured_figures(document):
    text = document.read_text()
    assert documents.filled(text) == text, "make tables"
    worse = re.sub(r"(\| `local` \| Minnen 2018 .*?, )\d", r"\g<1>99", text)
    assert worse != text
    assert documents.filled(worse) == text


def test_every_weights_file_is_described():
    text = documents.DOCUMENTS[1].read_text()
    described = re.findall(r"^\| `([a-z-]+)\.([0-9a-f]{8})` ", text, re.MULTILINE)
    there = {(name, locate.fingerprint_of(locate.by_name(name))) for name in locate.names()}
    assert set(described) == there
    older = (documents.ROOT / "weights" / OLDER).glob("*.safetensors")
    assert set(re.findall(rf"`{OLDER}/([a-z-]+\.[0-9a-f]{{8}})`", text)) == {path.stem for path in older}


def test_files_that_documents_show_exist():
    for document in documents.DOCUMENTS:
        for name in re.findall(r"!\[.*?\]\((.*?)\)", document.read_text()):
            assert (document.parent / name).is_file(), name
