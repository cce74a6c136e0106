"""Small formula problems of school physics and chemistry with integer answers."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from nanbeige_core.problems.problem import Family, Generate, Language, Problem, boxed


@dataclass(frozen=True)
class Formula:
    """One formula in two unknowns `a` and `b`; `divide` gives a = result * b so that the quotient is whole."""

    name: str
    operation: Literal["multiply", "divide", "add"]
    law: dict[Language, str]
    prompts: dict[Language, tuple[str, ...]]
    a_values: tuple[int, int] = (2, 30)
    b_values: tuple[int, int] = (2, 12)


SIGNS = {"multiply": "*", "divide": "/", "add": "+"}

FORMULAS: tuple[Formula, ...] = (
    Formula(
        "distance",
        "multiply",
        {"en": "distance = speed * time", "zh": "路程 = 速度 * 时间"},
        {
            "en": (
                "A car moves at {a} m/s for {b} s. How many metres does it travel?",
                "How far does a train go in {b} s at {a} m/s? Answer in metres.",
            ),
            "zh": ("汽车以 {a} 米/秒行驶 {b} 秒，路程是多少米？", "速度 {a} 米/秒，时间 {b} 秒，求路程。"),
        },
    ),
    Formula(
        "speed",
        "divide",
        {"en": "speed = distance / time", "zh": "速度 = 路程 / 时间"},
        {
            "en": (
                "A runner covers {a} m in {b} s. What is the speed in m/s?",
                "An object moves {a} m in {b} s. Find its speed in m/s.",
            ),
            "zh": ("小车 {b} 秒走了 {a} 米，速度是多少米/秒？", "路程 {a} 米，用时 {b} 秒，求速度。"),
        },
    ),
    Formula(
        "voltage",
        "multiply",
        {"en": "U = I * R", "zh": "U = I * R"},
        {
            "en": (
                "A current of {a} A flows through {b} ohms. What is the voltage in volts?",
                "Find the voltage in volts for I = {a} A and R = {b} ohms.",
            ),
            "zh": ("电流 {a} 安，电阻 {b} 欧，电压是多少伏？", "电阻 {b} 欧，通过电流 {a} 安，求电压。"),
        },
    ),
    Formula(
        "current",
        "divide",
        {"en": "I = U / R", "zh": "I = U / R"},
        {
            "en": (
                "A resistor of {b} ohms is connected to {a} V. What is the current in amperes?",
                "Find the current in amperes for U = {a} V and R = {b} ohms.",
            ),
            "zh": ("电压 {a} 伏，电阻 {b} 欧，电流是多少安？", "{b} 欧的电阻接在 {a} 伏电源上，求电流。"),
        },
    ),
    Formula(
        "density",
        "divide",
        {"en": "density = mass / volume", "zh": "密度 = 质量 / 体积"},
        {
            "en": (
                "A block has a mass of {a} g and a volume of {b} cm3. What is its density in g/cm3?",
                "Find the density in g/cm3 of {a} g in {b} cm3.",
            ),
            "zh": ("物体质量 {a} 克，体积 {b} 立方厘米，密度是多少？", "质量 {a} 克，体积 {b} 立方厘米，求密度。"),
        },
    ),
    Formula(
        "force",
        "multiply",
        {"en": "F = m * a", "zh": "F = m * a"},
        {
            "en": (
                "What force in newtons gives a mass of {a} kg an acceleration of {b} m/s2?",
                "A {a} kg body accelerates at {b} m/s2. Find the force in newtons.",
            ),
            "zh": ("质量 {a} 千克，加速度 {b} 米/秒²，力是多少牛？", "{a} 千克物体加速度为 {b} 米/秒²，求力。"),
        },
    ),
    Formula(
        "power",
        "multiply",
        {"en": "P = U * I", "zh": "P = U * I"},
        {
            "en": (
                "A lamp at {a} V draws {b} A. What is its power in watts?",
                "Find the power in watts for U = {a} V and I = {b} A.",
            ),
            "zh": ("灯的电压 {a} 伏，电流 {b} 安，功率是多少瓦？", "电压 {a} 伏，电流 {b} 安，求功率。"),
        },
    ),
    Formula(
        "work",
        "multiply",
        {"en": "W = F * s", "zh": "W = F * s"},
        {
            "en": (
                "A force of {a} N acts along {b} m. How much work is done in joules?",
                "Find the work in joules for F = {a} N and s = {b} m.",
            ),
            "zh": ("力 {a} 牛，位移 {b} 米，做功多少焦？", "{a} 牛的力推动物体 {b} 米，求功。"),
        },
    ),
    Formula(
        "pressure",
        "divide",
        {"en": "p = F / A", "zh": "p = F / A"},
        {
            "en": (
                "A force of {a} N presses on {b} m2. What is the pressure in pascals?",
                "Find the pressure in pascals for F = {a} N and A = {b} m2.",
            ),
            "zh": ("压力 {a} 牛，面积 {b} 平方米，压强是多少帕？", "{a} 牛作用在 {b} 平方米上，求压强。"),
        },
    ),
    Formula(
        "momentum",
        "multiply",
        {"en": "p = m * v", "zh": "p = m * v"},
        {
            "en": (
                "What is the momentum in kg m/s of {a} kg moving at {b} m/s?",
                "A {a} kg ball moves at {b} m/s. Find its momentum in kg m/s.",
            ),
            "zh": ("质量 {a} 千克，速度 {b} 米/秒，动量是多少？", "{a} 千克的球速度为 {b} 米/秒，求动量。"),
        },
    ),
    Formula(
        "moles",
        "divide",
        {"en": "n = m / M", "zh": "n = m / M"},
        {
            "en": (
                "How many moles are {a} g of a substance with a molar mass of {b} g/mol?",
                "Find the amount in moles for m = {a} g and M = {b} g/mol.",
            ),
            "zh": ("{a} 克物质，摩尔质量 {b} 克/摩尔，是多少摩尔？", "m = {a} 克，M = {b} 克/摩尔，求物质的量。"),
        },
        b_values=(2, 20),
    ),
    Formula(
        "kelvin",
        "add",
        {"en": "K = C + 273", "zh": "K = C + 273"},
        {
            "en": (
                "Convert {a} degrees Celsius to kelvin. Use 273.",
                "What is {a} degrees Celsius in kelvin? Use 273.",
            ),
            "zh": ("{a} 摄氏度是多少开尔文？按 273 计算。", "把 {a} 摄氏度换算成开尔文，取 273。"),
        },
        a_values=(1, 400),
        b_values=(273, 273),
    ),
    Formula(
        "minutes",
        "multiply",
        {"en": "minutes = hours * 60", "zh": "分钟 = 小时 * 60"},
        {
            "en": ("How many minutes are {a} hours?", "Convert {a} h to minutes."),
            "zh": ("{a} 小时是多少分钟？", "把 {a} 小时换算成分钟。"),
        },
        a_values=(2, 99),
        b_values=(60, 60),
    ),
)


def formula_generator(formula: Formula, largest_factor: int) -> Generate:
    """Return a generator of problems for one formula, its unknowns bounded by `largest_factor`."""

    def generate(random: Random, language: Language) -> Problem | None:
        a = _draw(random, formula.a_values, largest_factor)
        b = _draw(random, formula.b_values, largest_factor)
        if formula.operation == "divide":
            a *= b
        result = {"multiply": a * b, "divide": a // b, "add": a + b}[formula.operation]
        steps = f"{formula.law[language]} = {a}{SIGNS[formula.operation]}{b} = {result}."
        return Problem(
            domain="science",
            language=language,
            prompt=random.choice(formula.prompts[language]).format(a=a, b=b),
            reasoning=steps,
            answer=boxed(result),
            verifier="math",
            source=f"formula/{formula.name}",
            group=f"{formula.name}:{a},{b}",
            spec={"gold": str(result)},
        )

    return generate


def _draw(random: Random, bounds: tuple[int, int], largest: int) -> int:
    """Draw an unknown; a constant of the formula (equal bounds) is not bounded by `largest`."""
    low, high = bounds
    return low if low == high else random.randint(low, max(low, min(high, largest)))


def open_families(largest_factor: int) -> list[Family]:
    """Return one family per formula."""
    return [Family(f"science/{f.name}", "science", formula_generator(f, largest_factor)) for f in FORMULAS]
