"""Questions and short writing requests with a good reference, for the general domain.

Sources: the hand-written dialogues of chatterbot-corpus (BSD-3) in English and Chinese, and tasks over their own
sentences (restore the word order, finish the sentence) or over the fact table `facts.py`.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import yaml

from nanbeige_core.data.fetch import fetch_wheel
from nanbeige_core.problems.facts import CAPITALS, TOPICS
from nanbeige_core.problems.problem import Language, Problem

PACKAGE = "chatterbot-corpus"
VERSION = "1.3.3"
SHA256 = "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"
FOLDERS: dict[Language, str] = {"en": "english", "zh": "chinese"}
# left out: gossip, humor, money, politics and psychology are partly rude, dated or partisan
CHAPTERS = (
    "ai", "botprofile", "computers", "conversations", "emotion", "food", "greetings", "health", "history",
    "literature", "movies", "science", "sports", "tech_support", "trivia", "coding",
)  # fmt: skip
LONGEST: dict[Language, int] = {"en": 150, "zh": 50}
ORDER: dict[Language, str] = {
    "en": "Put these words in the right order: {words}",
    "zh": "把这些词语排成一句通顺的话：{words}",
}
FINISH: dict[Language, str] = {"en": "Finish this sentence: {start} ...", "zh": "把这句话补充完整：{start}……"}
CAPITAL: dict[Language, tuple[tuple[str, str], ...]] = {
    "en": (
        ("What is the capital of {country}?", "The capital of {country} is {city}."),
        ("Which country has {city} as its capital?", "{city} is the capital of {country}."),
        ("Tell me the capital city of {country}.", "It is {city}."),
    ),
    "zh": (
        ("{country}的首都是哪里？", "{country}的首都是{city}。"),
        ("{city}是哪个国家的首都？", "{city}是{country}的首都。"),
        ("请告诉我{country}的首都。", "{country}的首都是{city}。"),
    ),
}
TOPIC: dict[Language, tuple[str, ...]] = {
    "en": (
        "Write one sentence about {t}.",
        "Tell me something about {t}.",
        "Describe {t} to a child.",
        "What can you say about {t}?",
        "Explain {t} briefly.",
    ),
    "zh": (
        "写一句关于{t}的话。",
        "请介绍一下{t}。",
        "给小朋友讲讲{t}。",
        "关于{t}你能说些什么？",
        "简单解释一下{t}。",
    ),
}


def general(language: Language, prompt: str, answer: str, *, source: str, group: str) -> Problem:
    """Build a problem whose response a reward model judges against the reference answer."""
    return Problem("general", language, prompt, "", answer, "pairwise", source, group)


def read_dialogues(cache: Path) -> Iterator[tuple[Language, str, str, str]]:
    """Yield (language, chapter, turn, reply) of neighbouring turns, in archive order."""
    wheel = fetch_wheel(PACKAGE, VERSION, SHA256, cache)
    with zipfile.ZipFile(wheel) as archive:
        for language, folder in FOLDERS.items():
            for chapter in CHAPTERS:
                name = f"chatterbot_corpus/data/{folder}/{chapter}.yml"
                if name not in archive.namelist():
                    continue
                loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
                for turns in yaml.load(archive.read(name), loader)["conversations"]:
                    for turn, reply in zip(turns, turns[1:], strict=False):
                        yield language, chapter, tidy(str(turn)), tidy(str(reply))


def tidy(text: str) -> str:
    """Collapse white space and start with a capital letter."""
    text = " ".join(text.split()).strip("「」")
    return text[:1].upper() + text[1:]


def well_formed(text: str, language: Language) -> bool:
    """Say whether a text is a short, complete utterance in its language, without mark-up or links."""
    if not 2 <= len(text) <= LONGEST[language] or re.search(r"[`<>{}|\\]|https?:|\.\.", text):
        return False
    chinese = len(re.findall(r"[一-鿿]", text))
    return chinese >= len(text) / 3 if language == "zh" else chinese == 0


def order_task(sentence: str, language: Language, random: Random, source: str) -> Problem | None:
    """Ask to restore the order of a sentence's words (clauses in Chinese, which writes no spaces)."""
    words = re.findall(r"[^\s.,!?]+", sentence) if language == "en" else re.findall(r"[^，,。！？]+", sentence)
    shuffled = random.sample(words, len(words))
    if not (4 if language == "en" else 2) <= len(words) <= 10 or shuffled == words:
        return None
    prompt = ORDER[language].format(words=" / ".join(shuffled))
    return general(language, prompt, sentence, source=f"{source}/order", group="sentence:" + sentence)


def finish_task(sentence: str, language: Language, source: str) -> Problem | None:
    """Ask to finish a sentence after its first half."""
    if language == "zh":
        start = sentence[: len(sentence) // 2]
        ready = len(sentence) >= 12
    else:
        words = sentence.split()
        start = " ".join(words[: len(words) // 2])
        ready = len(words) >= 8
    if not ready:
        return None
    prompt = FINISH[language].format(start=start)
    return general(language, prompt, sentence, source=f"{source}/finish", group="sentence:" + sentence)


def fact_problems() -> Iterator[Problem]:
    """Yield questions over the fact table in both languages."""
    for number, (english, chinese) in enumerate(CAPITALS):
        names: dict[Language, tuple[str, str]] = {"en": english, "zh": chinese}
        for language, (country, city) in names.items():
            for ask, tell in CAPITAL[language]:
                prompt, answer = (text.format(country=country, city=city) for text in (ask, tell))
                yield general(language, prompt, answer, source="facts/capitals", group=f"capital:{number}")
    for number, (english, chinese) in enumerate(TOPICS):
        notes: dict[Language, tuple[str, str]] = {"en": english, "zh": chinese}
        for language, (topic, sentence) in notes.items():
            for ask in TOPIC[language]:
                prompt = ask.format(t=topic)
                yield general(language, prompt, sentence, source="facts/topics", group=f"topic:{number}")


def read_conversation(cache: Path, *, seed: int) -> list[Problem]:
    """Return every general problem: dialogue turns with their longest reply, then tasks over sentences."""
    random = Random(f"{seed}/conversation")
    replies: dict[tuple[Language, str], tuple[str, str]] = {}
    for language, chapter, turn, reply in read_dialogues(cache):
        if well_formed(turn, language) and well_formed(reply, language):
            known = replies.get((language, turn), ("", ""))
            replies[language, turn] = max(known, (reply, chapter), key=lambda pair: len(pair[0]))
    problems = list(fact_problems())
    for (language, turn), (reply, chapter) in replies.items():
        source = f"{PACKAGE}/{FOLDERS[language]}/{chapter}"
        problems.append(general(language, turn, reply, source=source, group="dialogue:" + turn))
        if re.search(r"[.!。！]$", reply):
            tasks = (order_task(reply, language, random, source), finish_task(reply, language, source))
            problems.extend(task for task in tasks if task is not None)
    return problems
