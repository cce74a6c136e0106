import pytest

from nanbeige_core.verify.chinese_numerals import plain_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("二十五", "25"),
        ("十", "10"),
        ("一百零八", "108"),
        ("两千零二十四", "2024"),
        ("二〇二四", "2024"),
        ("一亿零三万", "100030000"),
        ("负三点一四", "-3.14"),
        ("三又四分之一", "3\\frac{1}{4}"),
        ("百分之零点五", "0.5\\%"),
        ("二十五元", "25元"),
    ],
)
def test_a_number_in_characters_is_read(text: str, number: str) -> None:
    assert plain_number(text) == number


@pytest.mark.parametrize(
    "text", ["七八", "三千五", "三万五", "一百二", "百", "一百零", "一百十", "千米", "", "25", "分之三"]
)
def test_what_is_no_number_or_could_be_two_is_not_read(text: str) -> None:
    assert plain_number(text) is None
