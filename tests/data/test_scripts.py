"""Scripts that do not part words: what one edit, one quotation and one query find in them."""

from pathlib import Path

import pytest

from nanbeige_core.data.decontamination import TargetIndex
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.hashing import unit_hashes
from nanbeige_core.data.language import detect_language
from nanbeige_core.data.terms import bm25_between
from tests.data.test_dedup import Document, evidence, find

SENTENCES = {
    "japanese": "ひとはみなうまれながらにしてじゆうでありそのそんげんとけんりとについてびょうどうであるコンピューター",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิต่างมีเหตุผลและมโนธรรมและควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    "lao": "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສິດສິດທິເສລີພາບແລະຄວາມສະເໝີພາບເທົ່າທຽມກັນທຸກຄົນມີເຫດຜົນແລະຄວາມຄິດຄວາມເຫັນສ່ວນຕົວ",
    "khmer": "មនុស្សទាំងអស់កើតមកមានសេរីភាពនិងសមភាពក្នុងសេចក្តីថ្លៃថ្នូរនិងសិទ្ធិមនុស្សមានវិចារណញ្ញាណនិងសតិសម្បជញ្ញៈជាប់ពីកំណើត",
    "burmese": "လူတိုင်းသည်တူညီလွတ်လပ်သောဂုဏ်သိက္ခာဖြင့်လည်းကောင်းတူညီလွတ်လပ်သောအခွင့်အရေးများဖြင့်လည်းကောင်းမွေးဖွားလာသူများဖြစ်သည်",
}
scripts = pytest.mark.parametrize("text", SENTENCES.values(), ids=SENTENCES)


@scripts
def test_each_is_neither_english_nor_chinese(text: str) -> None:
    assert detect_language(text) == "other"


def test_japanese_with_many_han_characters_is_not_chinese_and_chinese_with_a_kana_is() -> None:
    assert detect_language("東京都の人口は約千四百万人であり、日本の首都として政治文化の中心となっている。") == "other"
    assert detect_language("北京市的人口约两千万，是中国的首都，政治、文化的中心。日语的“の”相当于汉语的“的”。") == "zh"


@scripts
def test_a_copy_with_one_letter_changed_goes_and_half_a_copy_stays(text: str, tmp_path: Path) -> None:
    story = "".join(text[place:] + text[:place] for place in range(0, 40, 5))
    rows = [Document("kept", story, 9.0), Document("edited", story[:200] + "x" + story[201:], 1.0)]
    rows.append(Document("other", text[: len(text) // 3], 1.0))
    assert [(row["id"], row["kept_id"]) for row in evidence(find(tmp_path, rows))] == [("edited", "kept")]


@scripts
def test_an_evaluation_item_is_found_wherever_it_is_quoted_and_a_few_letters_are_not(text: str) -> None:
    index = TargetIndex([("item", text[:60])], 13)
    assert index.find(f"{text[70:]}{text[:60]}{text[70:]}") is not None
    assert index.find(text[70:] + text[:20] + text[70:]) is None


@scripts
def test_a_query_finds_the_text_that_holds_its_letters(text: str) -> None:
    others = [other for other in SENTENCES.values() if other != text]
    scores = bm25_between([text[20:40]], [text[:60], text[60:], *others])[0]
    assert scores.argmax() == 0


@pytest.mark.parametrize(
    ("text", "units", "characters"),
    [
        ("Plain words, 3.5 numbers and under_scores", 7, 0.0),
        ("Слово и слово, ἀρχὴ, עברית, हिन्दी", 6, 0.0),
        ("打印机设置 and words", 7, 5 / 7),
        ("한국어 문장", 2, 0.0),
    ],
)
def test_other_scripts_keep_their_units(text: str, units: int, characters: float) -> None:
    hashes, share = unit_hashes(text)
    assert (len(hashes), share) == (units, pytest.approx(characters))


def test_shingles_of_these_scripts_are_character_runs() -> None:
    assert DedupSettings().shingle_characters == 8
    assert all(unit_hashes(text)[1] > 0.9 for text in SENTENCES.values())
