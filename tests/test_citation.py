import deblur_jax
from tests.commands import ROOT


def test_citation_and_changes_name_this_version():
    version = deblur_jax.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
