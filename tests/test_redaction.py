import pytest

from nanbeige_core.redaction import redact


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("cannot open s3://key:hunter22@host/bucket", "hunter22"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7", "wJalrXUtnFEMIK7"),
        ('{"aws_session_token": "FwoGZXIvYXdzEJr"}', "FwoGZXIvYXdzEJr"),
        ("Authorization: Bearer abcdefghijk.lmn", "abcdefghijk"),
        ("GET /k?X-Amz-Credential=AKIAABCDEFGHIJKLMNOP&X-Amz-Signature=0f0f0f0f", "0f0f0f0f"),
        ("SecretAccessKey: abcdefgh/ijk", "abcdefgh"),
        ("logged in with hf_abcdefghijklmnopqrstuvwx", "hf_abcdefghijklmnopqrstuvwx"),
    ],
)
def test_a_secret_is_masked(text: str, secret: str) -> None:
    assert secret not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer=store/tokenizer/ab12",
        "tokens=123456",
        "s3://bucket/recipe",
        "token_budget: 20480",
        "key: ingest/0123abcd",
    ],
)
def test_what_a_recipe_says_is_kept(text: str) -> None:
    assert redact(text) == text
