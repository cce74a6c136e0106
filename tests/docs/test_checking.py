"""The checks of the documentation can fail."""

from pathlib import Path

import pytest

from tests.docs.blocks import blocks_of
from tests.docs.checking import commands_of, problems_of

PAGE = """Text with `nanbeige plan`.

<!-- test: run, exit 2 -->
```bash
nanbeige plan --set dpd.betta=1
```

```
nanbeige ls   # untagged, yet a command
```

```yaml
stages: {}
```

<!-- test: write a/b.py -->
```python
x = 1
```
"""


def test_blocks_are_found_with_what_their_marker_says(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = [(block.language, block.mode, block.exit_status, block.argument) for block in blocks_of(page)]
    assert found == [("bash", "run", 2, ""), ("", None, 0, ""), ("python", "write", 0, "a/b.py")]
    page.write_text("<!-- test: rum -->\n```bash\nls\n```\n")
    with pytest.raises(ValueError, match="unknown marker 'rum'"):
        blocks_of(page)


def test_commands_are_read_through_comments_quotes_pipes_and_here_documents() -> None:
    script = (
        "nanbeige ls  # all\nnanbeige plan --set 'a=[1,\n 2]' && make run | cat\npython - <<'PY'\nnanbeige no\nPY\n"
    )
    assert commands_of(script) == [
        ["nanbeige", "ls"],
        ["nanbeige", "plan", "--set", "a=[1,\n 2]"],
        ["make", "run"],
        ["cat"],
        ["python", "-"],
    ]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("nanbeige pln", "no command pln"),
        ("nanbeige plan --profil laptop", "No such option"),
        ("nanbeige plan --set dpd.betta=1", "did you mean 'beta'"),
        ("nanbeige plan --profile lapto", "did you mean 'laptop'"),
        ("nanbeige gc --newest -1", "greater than or equal to 0"),
        ("nanbeige --halp", "no option --halp"),
        ("make runn", "no target runn"),
        ("if true; then", "syntax error"),
    ],
)
def test_what_is_wrong_in_a_script_is_found(script: str, words: str) -> None:
    found = problems_of(script)
    assert len(found) == 1
    assert words in found[0]


def test_a_script_without_faults_has_no_problems() -> None:
    assert problems_of("nanbeige plan --set dpd.beta=0.2 && make plan PROFILE=laptop") == []
