"""The text of API_KEYS_FILE and the keys in it, both ways. Pure: `keydisk.py` reads and writes the file itself.

Two forms are read. TOML, with everything a key can have, which is also what is written:

    [[keys]]
    name = "alice"
    hash = "sha256:…"              # of the key; the key itself is nowhere
    requests_per_minute = 60

and lines, `name:sha256:…[:rpm[:expiry]]`, with the old guides' `name:key[:rpm[:expiry]]` in clear text among them.

Everything that is wrong is said at once, by line, and a message never repeats a value: who has written a key into the
wrong place must not find it in the log.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from gateway import kinds
from gateway.policy.keys import MOMENT_ALLOWED, Key, digest_of, parse_moment, spell_moment

HEADER = """\
# The keys of this gateway (API_KEYS_FILE): their hashes, never the keys themselves. `wakegate keys` changes this file,
# and so may you. It is read again by itself; what is written around the keys stays.
"""
NAME_ALLOWED = "letters, digits, . _ - and @, beginning with a letter or digit, at most 40, and not itself a key"
RESERVED = {"api-key": "API_KEY", "first-key": "the first key", "admin": "ADMIN_KEY"}
"""Names that logs give to keys from elsewhere."""
SHORT = 16
"""Characters. Shorter keys can be guessed from their hash."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")
_LOOKS_LIKE_A_KEY = re.compile(r"(sk|rpa|hf|wk|ws|gsk|ghp)[-_]|(?=.*[0-9])[A-Za-z0-9]{24}", re.IGNORECASE)
"""A line with name and key the wrong way round must not put the key into every log line."""
_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.IGNORECASE)
_NOTHING = digest_of(b"")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file said. Where it has problems its keys are not to be used."""

    form: Literal["toml", "lines"] = "toml"
    keys: tuple[Key, ...] = ()
    problems: tuple[str, ...] = ()
    """One sentence each, with its line, and without any value."""
    warnings: tuple[str, ...] = ()
    clear: tuple[str, ...] = ()
    """Names of the keys that stand there in clear text."""


class NotEditable(Exception):
    """The file is right and still cannot be changed from here; the message says why, and what to do instead."""


def read(raw: bytes) -> Reading:
    """Whatever a file may hold. Never raises."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Reading(problems=(f"line {line}: not UTF-8 text",))
    if not text.strip():
        return Reading(problems=("it is empty; a file without keys has at least a comment in it",))
    return _Toml(text).reading() if _is_toml(text) else _Lines(text).reading()


def _is_toml(text: str) -> bool:
    """By its first line that says something: lines have a colon before anything else."""
    for line in _split(text):
        if (bare := line.strip()) and not bare.startswith("#"):
            return bare.startswith("[") or re.match(r"[\w.\"'-]+\s*=", bare) is not None
    return True


def _split(text: str) -> list[str]:
    """Lines with their ends. Only at line feeds: str.splitlines knows ends that TOML does not."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def name_problem(name: object) -> str | None:
    """What is wrong with a name, None if it is one. Names stand in logs and in labels of metrics."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or _LOOKS_LIKE_A_KEY.match(name):
        return f"not a name; allowed: {NAME_ALLOWED}"
    if name.lower() in RESERVED:
        return f"{name.lower()} is how logs call {RESERVED[name.lower()]}; take another name"
    return None


def clashes(keys: Iterable[Key], fixed: Iterable[Key]) -> tuple[str, ...]:
    """Which of a file's keys are given by other settings, too: which limits hold would depend on chance."""
    known = {key.digest: RESERVED.get(key.name, key.name) for key in fixed}
    return tuple(
        f"{key.name} is the same key as {known[key.digest]}; take one of them away"
        for key in keys
        if key.digest in known
    )


# --- What a key can have ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field of a key is read from a TOML value, and written."""

    parse: Callable[[Any], object]
    """Raises ValueError or TypeError."""
    allowed: str
    spell: Callable[[Any], str]


def _quoted(text: str) -> str:
    """A TOML string. JSON escapes the same way, and what it leaves alone TOML allows, as long as it is printable."""
    return json.dumps(text, ensure_ascii=False)


def _list_of(kind: kinds.Kind) -> _Field:
    def parse(value: object) -> frozenset[str]:
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise TypeError
        return frozenset(str(kind.parse(item)) for item in value)

    allowed = f"a list of texts, each {kind.allowed}; without the field: all"
    return _Field(parse, allowed, lambda v: f"[{', '.join(map(_quoted, sorted(v)))}]")


def _digest(value: str) -> bytes:
    if not _HASH.fullmatch(value):
        raise ValueError
    digest = bytes.fromhex(value[7:])
    if digest == _NOTHING:
        raise ValueError
    return digest


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    kinds.COUNT.parse(str(value))
    return value


def _sum(value: object) -> object:
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, float):
        text = f"{value:.6f}"  # repr would write a small one as 1e-06
        if float(text) != value:
            raise ValueError
        return kinds.MONEY.parse(text)
    return kinds.MONEY.read(value)


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _moment(value: object) -> float:
    if isinstance(value, date):  # and so is a datetime
        value = value.isoformat()
    if not isinstance(value, str):
        raise TypeError
    return parse_moment(value)


_COUNT = _Field(_count, kinds.COUNT.allowed, str)
_FIELDS: dict[str, tuple[str, _Field]] = {
    "hash": (
        "digest",
        _Field(_digest, "sha256: and the 64 hex digits of a key's SHA-256", lambda v: f'"sha256:{v.hex()}"'),
    ),
    "requests_per_minute": ("requests_per_minute", _COUNT),
    "tokens_per_minute": ("tokens_per_minute", _COUNT),
    "max_concurrent": ("max_concurrent", _COUNT),
    "monthly_spend": ("monthly_spend", _Field(_sum, kinds.MONEY.allowed, kinds.MONEY.spell)),
    "fallback": ("fallback", _Field(_yes_or_no, "true, false", lambda v: "true" if v else "false")),
    "expires": ("expires", _Field(_moment, MOMENT_ALLOWED, spell_moment)),
    "models": ("models", _list_of(kinds.TEXT)),
    "routes": ("routes", _list_of(kinds.PATH)),
}
"""Field in the file → attribute of a Key, and how it is read and written. In the order in which they are written."""


def _line_number(problem: str) -> int:
    found = re.match(r"(?:line|key) ([0-9]+)", problem)
    return int(found[1]) if found else 0


class _Book:
    """The keys found so far, and what is wrong with them: what both forms need."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._names: dict[str, str] = {}
        self._digests: dict[bytes, tuple[str, str]] = {}

    def reading(self, form: Literal["toml", "lines"], clear: Iterable[str] = ()) -> Reading:
        problems = sorted(self.problems, key=_line_number)
        return Reading(form, tuple(self.keys), tuple(problems), tuple(self.warnings), tuple(clear))

    def add(self, where: str, name: object, values: Mapping[str, Any]) -> None:
        """One key with the values of its fields, or what is wrong with it. `where` is its line."""
        wrong = name_problem(name)
        if wrong is not None:
            self.problems.append(f"{where}: name: {wrong}")
        elif (first := self._names.setdefault(str(name), where)) != where:
            self.problems.append(f"{where}: the name {name} is there already ({first})")
        if not isinstance(digest := values.get("digest"), bytes):
            return
        other, first = self._digests.setdefault(digest, (str(name) if wrong is None else "another", where))
        if first != where:
            self.problems.append(f"{where}: this is the same key as {other} ({first})")
        if wrong is None:
            self.keys.append(Key(str(name), **values))

    def value(self, where: str, name: str, value: object, into: dict[str, Any]) -> None:
        """Read one field's value into its attribute."""
        attribute, reader = _FIELDS[name]
        try:
            into[attribute] = reader.parse(value)
        except (ValueError, TypeError, AttributeError, OverflowError):
            self.problems.append(f"{where}: {name}: not right; allowed: {reader.allowed}")


# --- TOML -------------------------------------------------------------------------------------------------------------

_START = re.compile(r"[ \t]*\[\[[ \t]*keys[ \t]*\]\][ \t]*(#.*)?")


@dataclass(slots=True)
class _Block:
    """One `[[keys]]` as it stands in the text: the comment right above it, its own lines, and what follows them."""

    at: int
    """Its line, from 1."""
    lead: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)

    @property
    def name(self) -> object:
        return _first_key("".join(self.lines)).get("name")


class _Toml:
    """The reader of the TOML form."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._book = _Book()

    def reading(self) -> Reading:
        import tomllib  # only where there is such a file

        try:
            data = tomllib.loads(self._text)
        except (ValueError, RecursionError) as error:
            # Its own words may repeat what stands there.
            line = re.search(r"\(at line (\d+),", str(error))
            return Reading(problems=(f"{f'line {line[1]}' if line else 'at its end'}: this is not TOML",))
        blocks = _blocks(self._text)[1]
        tables = data.pop("keys", [])
        for name in data:
            self._book.problems.append(f"{self._line_of(name)}: {_named(name)} is nothing here; keys stand in [[keys]]")
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._book.problems.append(f"{self._line_of('keys')}: keys: not right; write [[keys]] above each key")
            tables = []
        for nth, table in enumerate(tables):
            self._read(table, blocks[nth] if _agree(blocks, tables) else None, nth + 1)
        return self._book.reading("toml")

    def _read(self, table: dict[str, object], block: _Block | None, nth: int) -> None:
        def at(name: str) -> str:
            return f"key {nth}" if block is None else f"line {_line_in(block, name)}"

        values: dict[str, Any] = {}
        for name, value in table.items():
            if name in _FIELDS:
                self._book.value(at(name), name, value, values)
            elif name in ("key", "secret", "token", "api_key"):
                self._book.problems.append(
                    f"{at(name)}: {name}: a key itself does not belong here, only its hash (`wakegate keys new`)"
                )
            elif name != "name":
                self._book.problems.append(
                    f"{at(name)}: {_named(name)} is not a field of a key; allowed: name, {', '.join(_FIELDS)}"
                )
        if "hash" not in table:
            self._book.problems.append(f"{at('')}: hash: missing")
        self._book.add(at(""), table.get("name"), values)

    def _line_of(self, name: str) -> str:
        for number, line in enumerate(_split(self._text), 1):
            if re.match(rf"\s*\[*\s*[\"']?{re.escape(name)}[\"']?\s*[\].=]", line):
                return f"line {number}"
        return "the file"


def _named(name: str) -> str:
    """A field's name, if it may be repeated."""
    return name if re.fullmatch(r"[A-Za-z_]{1,24}", name) and not _LOOKS_LIKE_A_KEY.match(name) else "this"


def _line_in(block: _Block, name: str) -> int:
    for nth, line in enumerate(block.lines):
        if name and re.match(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=", line):
            return block.at + nth
    return block.at


def _first_key(text: str) -> dict[str, Any]:
    """The one key of a block; nothing where the block is not one by itself."""
    import tomllib

    try:
        tables = tomllib.loads(text).get("keys")
    except (ValueError, RecursionError):
        return {}
    return tables[0] if isinstance(tables, list) and tables and isinstance(tables[0], dict) else {}


def _agree(blocks: list[_Block], tables: list[Any]) -> bool:
    """Whether what looks like a block is one: `[[keys]]` may also stand in a text of several lines."""
    return len(blocks) == len(tables) and all(
        _first_key("".join(block.lines)) == table for block, table in zip(blocks, tables, strict=True)
    )


def _blocks(text: str) -> tuple[list[str], list[_Block]]:
    """What stands before the first key, and the blocks. Joined again they are the text."""
    before: list[str] = []
    blocks: list[_Block] = []
    for number, line in enumerate(_split(text), 1):
        if _START.fullmatch(line.rstrip("\r\n")):
            above = blocks[-1].rest if blocks else before
            lead: list[str] = []
            while above and above[-1].lstrip().startswith("#"):
                lead.insert(0, above.pop())
            blocks.append(_Block(number, lead, [line]))
        elif not blocks:
            before.append(line)
        elif line.strip() and not line.lstrip().startswith("#"):
            blocks[-1].lines += [*blocks[-1].rest, line]
            blocks[-1].rest = []
        else:
            blocks[-1].rest.append(line)
    return before, blocks


# --- Lines ------------------------------------------------------------------------------------------------------------


class _Lines:
    """The reader of the line form."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._book = _Book()
        self._clear: list[str] = []

    def reading(self) -> Reading:
        for number, line in enumerate(_split(self._text), 1):
            bare = re.sub(r"(^|\s)#.*", "", line).strip()
            if bare:
                self._read(f"line {number}", bare)
        book = self._book
        if self._clear:
            shown = ", ".join(self._clear[:5]) + (", …" if len(self._clear) > 5 else "")
            book.warnings.insert(
                0,
                f"{len(self._clear)} {'key stands' if len(self._clear) == 1 else 'keys stand'} there in clear text "
                f"({shown}); `wakegate keys import` makes hashes of them",
            )
        return book.reading("lines", self._clear)

    def _read(self, where: str, line: str) -> None:
        name, _, rest = (part.strip() for part in line.partition(":"))
        hashed = rest[:7].lower() == "sha256:"
        secret, _, rest = (part.strip() for part in (rest[7:] if hashed else rest).partition(":"))
        rpm, _, expiry = (part.strip() for part in rest.partition(":"))
        values: dict[str, Any] = {}
        if hashed:
            self._book.value(where, "hash", f"sha256:{secret}", values)
        elif secret and secret.isprintable() and not re.search(r"\s", secret):
            values["digest"] = digest_of(secret.encode())
            if name_problem(name) is None:
                self._clear.append(name)
                if len(secret) < SHORT:
                    self._book.warnings.append(f"{where}: the key {name} has fewer than {SHORT} characters")
        else:
            self._book.problems.append(
                f"{where}: not a key; allowed: name:sha256:<64 hex digits>, then :requests-per-minute:expiry"
            )
        if rpm:
            self._book.value(
                where, "requests_per_minute", int(rpm) if re.fullmatch("[0-9]{1,13}", rpm) else rpm, values
            )
        if expiry.lower() not in ("", "never", "none"):
            self._book.value(where, "expires", expiry, values)
        self._book.add(where, name, values)


# --- Writing ----------------------------------------------------------------------------------------------------------


def render(key: Key) -> str:
    """The block of one key."""
    lines = ["[[keys]]", f"name = {_quoted(key.name)}"]
    plain = Key(key.name, key.digest)
    for name, (attribute, spelling) in _FIELDS.items():
        value = getattr(key, attribute)
        if name == "hash" or value != getattr(plain, attribute):
            lines.append(f"{name} = {spelling.spell(value)}")
    return "\n".join(lines) + "\n"


def rewrite(text: str, keys: Iterable[Key]) -> str:
    """The TOML text with these keys in it, and no others. What is written around the keys that stay stays, too.

    The result is read back before it is given: raises NotEditable where it would not say what it should.
    """
    wanted = {key.name: key for key in keys}
    expected = dict(wanted)
    before, blocks = _blocks(text) if text.strip() else ([HEADER], [])
    known = {key.name: key for key in read(text.encode()).keys} if text.strip() else {}
    parts = before
    for block in blocks:
        key = wanted.pop(str(block.name), None)
        if key is not None:
            same = key == known.get(key.name)
            parts += [*block.lead, *(block.lines if same else [_changed(block, key)]), *block.rest]
        elif any(line.strip() for line in block.rest):
            parts += block.rest
    for key in wanted.values():
        body = "".join(parts)
        parts = [body, "" if body.endswith("\n") or not body else "\n", "\n", render(key)]
    made = "".join(parts)
    after = read(made.encode())
    if after.problems or {key.name: key for key in after.keys} != expected:
        raise NotEditable("its keys do not stand in plain [[keys]] blocks; change it by hand")
    return made


def _changed(block: _Block, key: Key) -> str:
    """The block with the key's new hash if that is all, else written anew."""
    lines = [
        re.sub(r"^(\s*hash\s*=\s*)(\"[^\"]*\"|'[^']*')", rf'\g<1>"sha256:{key.digest.hex()}"', line)
        for line in block.lines
    ]
    text = "".join(lines)
    return text if read(text.encode()).keys == (key,) else render(key)
