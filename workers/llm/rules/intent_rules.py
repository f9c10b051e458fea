"""Classify the intent of an English message, and plan its tool calls, by pattern matching. Pure functions.

`classify_intent` applies the rules below in their order, and the first match wins. It reads the first 2,000 characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias

from petiole.events.catalog.orchestrator import ClassifiedIntent
from petiole.events.content import Value
from petiole.workers.llm.rules.number_words import replace_number_words
from petiole.workers.retrieval.forget_requests import parse_forget_request

IntentRule: TypeAlias = Callable[[str], ClassifiedIntent | None]

_MAX_TEXT_LENGTH = 2_000
_MAX_PLANS = 8


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """A tool that a message needs, with the arguments of the call."""

    tool: str
    arguments: dict[str, Value] = field(default_factory=dict)


def classify_intent(text: str) -> ClassifiedIntent:
    """Classify the intent of a message; `question` or `statement` if no rule matches."""
    plain = _normalize(text)
    for rule in _INTENT_RULES:
        if intent := rule(plain):
            return intent
    kind = "question" if _QUESTION.search(plain) else "statement"
    return ClassifiedIntent(intent=kind, confidence=0.5)


def plan_tools(intent: ClassifiedIntent, text: str) -> tuple[ToolPlan, ...]:
    """Plan the tool calls for an answer. One message may need several."""
    if intent.intent == "recall":
        return (ToolPlan("recall", dict(intent.entities)),)
    if intent.intent not in _COMPUTED:
        return ()
    return tuple(islice(_computations(_normalize(text)), _MAX_PLANS))


def _computations(text: str) -> Iterator[ToolPlan]:
    for expression in _expressions(text):
        yield ToolPlan("calculator", {"expression": expression})
    if primes := _read_primes(text):
        yield ToolPlan("primes", dict(primes.entities))
    if time := _read_time(text):
        zones = _find_places(text)
        yield from [ToolPlan("clock", {**time.entities, "zone": zone}) for zone in zones] or [
            ToolPlan("clock", dict(time.entities))
        ]


def _normalize(text: str) -> str:
    return text[:_MAX_TEXT_LENGTH].replace("\u2019", "'")


_SAYING_VERBS = (
    r"(?:say|said|saying|tell|told|telling|ask|asked|asking|mention|mentioned|write|wrote|talk|talking|discuss"
    r"|answer)"
)
_RECALL_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bwhat (?:did|have|had|was|were) (?P<who>i|you|we) (?:just |ever )?{_SAYING_VERBS}\b(?P<about>.*)",
        r"\b(?:do|can|did) you (?:still )?(?:remember|recall)\b(?P<about>.*)",
        r"\bremind me (?:what|who|where|when|which|of|about)\b(?P<about>.*)",
        rf"\b(?:have|had|did) (?P<who>i|you|we) (?:ever |already |just )?{_SAYING_VERBS}\b(?P<about>.*)",
        r"\b(?:what|who|where|when|which|how old)(?:'s| is| are| was| were) my\b(?P<about>.*)",
        r"\b(?:what|where|who) do i (?P<about>(?:live|work|like|love|hate|prefer|study)\b.*)",
    )
)

_SPEAKERS: Final = {"i": "user", "you": "assistant", "we": "anyone"}

# Words around the subject: "(do you remember) what I told you about | cats | earlier".
_FILLERS: Final = frozenset(
    """
    a about anything before earlier ever first for i just last me now of please said say something that the to
    told tell asked us was what when where we you
    """.split()  # noqa: SIM905 - a list of words reads best as words
)


def _read_recall(text: str) -> ClassifiedIntent | None:
    for pattern in _RECALL_PATTERNS:
        if match := pattern.search(text):
            groups = match.groupdict()
            said_by = _SPEAKERS[(groups.get("who") or "i").lower()]
            about = _strip_fillers(groups["about"])
            return ClassifiedIntent(intent="recall", confidence=0.9, entities={"about": about, "said_by": said_by})
    return None


def _strip_fillers(about: str) -> str:
    words = re.findall(r"[\w'-]+", about)[:20]
    while words and words[0].lower() in _FILLERS:
        words.pop(0)
    while words and words[-1].lower() in _FILLERS:
        words.pop()
    return " ".join(words)


_CALCULATION_PATTERN = re.compile(
    r"\b(?:what(?:'s|s| is| are| does)|calculate|compute|how (?:much|many)|evaluate|solve|work out|result of|tell me"
    r"|what per ?cent(?:age)?)\b"
    r"|^\W*(?:the )?(?:sum|total|average|mean|product|difference) (?:of|between)\b"
    r"|^\W*(?:please )?(?:add|subtract|multiply|divide|split|share|double|triple|halve)\b",
    re.IGNORECASE,
)
_DATE = re.compile(r"\b\d{4}-\d{1,2}-\d{1,2}\b")
_N = r"(\d+(?:\.\d+)?)"
_PERCENT = r"\s*(?:%|per ?cent)"
_SYMBOLS: Final = tuple(
    (re.compile(spoken, re.IGNORECASE), symbol)
    for spoken, symbol in (
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (rf"{_N}\s*/\s*{_N} of {_N}", r"\1 / \2 * \3"),
        (rf"{_N}{_PERCENT} of {_N}", r"\1 / 100 * \2"),
        (rf"{_N}{_PERCENT} off (?:of )?{_N}", r"\2 * (1 - \1 / 100)"),
        (rf"{_N} (?:is|as) what (?:per ?cent(?:age)?|%) of {_N}", r"\1 / \2 * 100"),
        (rf"(?:per ?cent(?:age)?|%) (?:of )?{_N} is {_N}", r" : \2 / \1 * 100"),
        (rf"{_N}\s*(?:plus|\+|and) {_N}{_PERCENT}", r"\1 * (1 + \2 / 100)"),
        (rf"{_N}\s*(?:minus|-|\u2212|less)\s*{_N}{_PERCENT}", r"\1 * (1 - \2 / 100)"),
        (rf"add {_N}{_PERCENT} to {_N}", r" : \2 * (1 + \1 / 100)"),
        (rf"(?:square root of|sqrt(?: of)?|\u221a)\s*\(?\s*{_N}\s*\)?", r"\1 ** 0.5"),
        (rf"(?:cube root of|cbrt(?: of)?)\s*\(?\s*{_N}\s*\)?", r"\1 ** (1 / 3)"),
        (rf"half (?:of )?{_N}|halve {_N}", r"\1\2 / 2"),
        (rf"(?:a|one|1) third of {_N}", r" : \1 / 3"),
        (rf"(?:a|one|1) quarter of {_N}", r" : \1 / 4"),
        (rf"(?:double|twice) (?:of )?{_N}", r"2 * \1"),
        (rf"triple (?:of )?{_N}", r"3 * \1"),
        (rf"add {_N} (?:to|and) {_N}", r" : \1 + \2"),
        (rf"subtract {_N} from {_N}", r" : \2 - \1"),
        (rf"(?:difference )(?:between|of) {_N} and {_N}", r" : \1 - \2"),
        (rf"multiply {_N} (?:by|and|with) {_N}", r" : \1 * \2"),
        (rf"(?:divide|split|share) {_N}(?: \w+)? (?:by|between|among|amongst|into) {_N}", r" : \1 / \2"),
        (r"\s+(?:times|multiplied by)\s+|(?<=\d)\s*[x\u00d7]\s*(?=\d)", " * "),
        (r"\s+divided by\s+|\s*\u00f7\s*", " / "),
        (r"\s+plus\s+", " + "),
        (r"\s+minus\s+|\s*\u2212\s*", " - "),
        (r"\s+(?:modulo|mod)\s+", " % "),
        (r"\s+to the power of\s+|\s*\^\s*", " ** "),
        (r"\s+squared\b", " ** 2"),
        (r"\s+cubed\b", " ** 3"),
    )
)
_LISTS: Final = re.compile(
    rf"(?P<what>sum|total|average|mean|product) of (?P<numbers>{_N}(?:\s*(?:,|,? and|,? &)\s*{_N}){{1,20}})",
    re.IGNORECASE,
)
_ARITHMETIC_RUN = re.compile(r"[\d.()+\-*/% ]+")
_HAS_OPERATION = re.compile(r"[\d.)] *(?:\*\*|//|[-+*/%])[ (+-]*[\d.]")


def _read_calculation(text: str) -> ClassifiedIntent | None:
    expressions = _expressions(text)
    if not expressions:
        return None
    return ClassifiedIntent(intent="calculation", confidence=0.95, entities={"expression": expressions[0]})


def _expressions(text: str) -> list[str]:
    """Find arithmetic in a text that asks for a calculation, or that consists of one expression."""
    symbolic = _words_to_symbols(replace_number_words(_DATE.sub(" ; ", text)))
    runs = map(_clean_expression, _ARITHMETIC_RUN.findall(symbolic))
    expressions = [expression for expression in runs if _HAS_OPERATION.search(expression)]
    is_calculation = _CALCULATION_PATTERN.search(text) or expressions == [_clean_expression(symbolic)]
    return expressions if is_calculation else []


def _words_to_symbols(text: str) -> str:
    text = _LISTS.sub(_list_to_symbols, text)
    for spoken, symbol in _SYMBOLS:
        text = spoken.sub(symbol, text)
    return text


def _list_to_symbols(match: re.Match[str]) -> str:
    what, numbers = match["what"].lower(), re.findall(_N, match["numbers"])
    joined = (" * " if what == "product" else " + ").join(numbers)
    return f" : ({joined}) / {len(numbers)}" if what in {"average", "mean"} else f" : {joined}"


def _clean_expression(run: str) -> str:
    return run.strip().rstrip("=?!. ").lstrip(")*/%. ").rstrip("(+-*/%. ")


_PRIMES = re.compile(
    r"\b(?:how many|count|number of)\b[^.?!]{0,40}\bprimes?\b[^.?!\d]{0,40}"
    r"\b(?P<bound>below|under|less than|smaller than|up to|until|to)\s+(?P<number>\d[\d,_]{0,20})",
    re.IGNORECASE,
)
_INCLUSIVE: Final = frozenset({"up to", "until", "to"})

_TIME = re.compile(
    r"\bwhat time\b|\btime is it\b|\b(?:the |current )time now\b|\bcurrent (?:time|date)\b"
    r"|\bwhat(?:'s|s| is| was| will be) (?:the )?(?:current )?"
    r"(?:time|(?:date|year|month)(?! of)|(?:day|date) (?:of|today|tomorrow))\b"
    r"|\bwhat(?:'s|s| is) today\b|\b(?:today|tomorrow|yesterday)'s date\b"
    r"|\b(?:what|which) (?:date|year|month|day(?: of the week)?) (?:is|was|will|are|do)\b"
    r"|^\W*(?:the )?time (?:now )?in\b|\b(?:tell|give|show) me the (?:current )?(?:time|date)\b",
    re.IGNORECASE,
)
_NEXT_QUESTION: Final = re.compile(
    r"[?!;,:]|\.(?=\s|$)|\band (?=(?:what|which|how|tell|calculate)\b|[\d(])", re.IGNORECASE
)
# What may stand in a question about now besides a place and a day.
_TIME_WORDS: Final = frozenset(
    """
    a also and are at be currently current date day do exactly give have here is it local me moment month now of
    please right show tell thanks the then there time today today's tomorrow's was we week what what's whats which
    will year yesterday's you
    """.split()  # noqa: SIM905 - a list of words reads best as words
)
_UNKNOWN_PLACE: Final = re.compile(r"\bwhere (?:i|we|my|you)\b", re.IGNORECASE)
_DAYS: Final = (
    (re.compile(r"\bday after tomorrow\b", re.IGNORECASE), 2),
    (re.compile(r"\bday before yesterday\b", re.IGNORECASE), -2),
    (re.compile(r"\btomorrow\b", re.IGNORECASE), 1),
    (re.compile(r"\byesterday\b", re.IGNORECASE), -1),
    (re.compile(r"\bin (?P<number>\d{1,3}) days\b", re.IGNORECASE), 1),
    (re.compile(r"\bin (?P<number>\d{1,3}) weeks\b", re.IGNORECASE), 7),
    (re.compile(r"\b(?P<number>\d{1,3}) days ago\b", re.IGNORECASE), -1),
)
_LETTERS = r"[^\W\d_]"
_PLACE = re.compile(
    rf"\bin (?:the )?(?P<zone>{_LETTERS}(?:{_LETTERS}|[_/+'.-])*(?: (?:{_LETTERS}|[_/'.])+){{0,2}}?)"
    r"(?= (?:right )?now\b| please\b| and\b| today\b| tomorrow\b| at\b| *[?!,;:.()\d]| *$)",
    re.IGNORECASE,
)


def _read_primes(text: str) -> ClassifiedIntent | None:
    match = _PRIMES.search(text)
    if match is None:
        return None
    number = int(re.sub(r"[,_]", "", match["number"]))
    below = number + 1 if match["bound"].lower() in _INCLUSIVE else number
    return ClassifiedIntent(intent="count_primes", confidence=0.95, entities={"below": min(below, 2**62)})


def _read_time(text: str) -> ClassifiedIntent | None:
    match = _TIME.search(text)
    # "where I live" is a place that only a language model can look up.
    if match is None or _UNKNOWN_PLACE.search(text, match.start()):
        return None
    question = _time_question(text, match)
    if not _is_about_now(question):
        return None
    zones = _find_places(text)
    entities: dict[str, Value] = {"zone": zones[0]} if zones else {}
    if days := _read_days(replace_number_words(text)):
        entities["days"] = days
    return ClassifiedIntent(intent="time", confidence=0.9, entities=entities)


def _time_question(text: str, match: re.Match[str]) -> str:
    return _NEXT_QUESTION.split(text[match.start() :], maxsplit=1)[0]


def _is_about_now(question: str) -> bool:
    """Return whether a question has only what the clock can tell: a place and a day, and no train or birthday."""
    rest = replace_number_words(_PLACE.sub(" ", question))
    for pattern, _ in _DAYS:
        rest = pattern.sub(" ", rest)
    return _TIME_WORDS.issuperset(re.findall(r"[\w']+", rest.casefold()))


def _find_places(text: str) -> list[str]:
    """Find the places whose time is asked: those of the question, or else the next one."""
    match = _TIME.search(text)
    if match is None:
        return []
    places = _PLACE.findall(_time_question(text, match)) or _PLACE.findall(text, match.start())[:1]
    return [place.rstrip(".") for place in places]


def _read_days(text: str) -> int:
    for pattern, days in _DAYS:
        if match := pattern.search(text):
            return days * int(match.groupdict().get("number") or 1)
    return 0


def _read_forget(text: str) -> ClassifiedIntent | None:
    return ClassifiedIntent(intent="forget", confidence=0.9) if parse_forget_request(text) else None


_QUESTION = re.compile(
    r"\?\s*$|^\W*(?:who|what|where|when|why|which|how|is|are|was|were|do|does|did|can|could|will|would|should)\b",
    re.IGNORECASE,
)
_PHRASES: Final = tuple(
    (intent, re.compile(pattern, re.IGNORECASE))
    for intent, pattern in (
        ("about_user", r"^\W*(?:who am i|what do you (?:know|remember)(?: about me)?|tell me about me)\W*$"),
        (
            "wellbeing",
            r"^\W*(?:\w+[,!]? )?(?:how are you|how do you do|how is it going|how's it going|are you there)\b",
        ),
        ("acknowledgement", r"^\W*(?:ok|okay|yes|no|yep|nope|sure|fine|great|alright|good|nice|cool)\W*$"),
        (
            "identity",
            (
                r"\b(?:who|what) are you\b|\bwhat(?:'s| is) your name\b|"
                r"\bare you (?:an? )?(?:\w+ )?(?:human|person|robot|bot|ai|llm|model)\b"
            ),
        ),
        ("greeting", r"^\W*(?:hello|hi|hey|greetings|good (?:morning|afternoon|evening))\b"),
        ("thanks", r"^\W*(?:thanks|thank you|many thanks)\b"),
        ("farewell", r"^\W*(?:goodbye|good bye|bye|good night|see you)\b"),
        ("help", r"\bhelp\b.{0,10}$|\bcan you help\b|\bhelp me\b|\bwhat can you do\b"),
    )
)


def _read_phrase(text: str) -> ClassifiedIntent | None:
    for intent, pattern in _PHRASES:
        if pattern.search(text):
            return ClassifiedIntent(intent=intent, confidence=0.9)
    return None


PLANNED_TOOLS: Final = frozenset({"calculator", "clock", "primes", "recall"})
"""The tools that `plan_tools` plans."""

_COMPUTED: Final = frozenset({"calculation", "count_primes", "time"})

# Forget and recall come first, because "do you remember what 12 * 7 is" asks for a memory and contains arithmetic.
_INTENT_RULES: Final[tuple[IntentRule, ...]] = (
    _read_forget,
    _read_recall,
    _read_primes,
    _read_calculation,
    _read_time,
    _read_phrase,
)
