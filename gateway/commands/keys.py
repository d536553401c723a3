"""`wakegate keys …`: makes, lists, ends and checks the keys of API_KEYS_FILE.

A key is printed once, alone on standard output, and never read from the command line, where everybody on the machine
could see it. The file gets only its hash. Exit codes: 0; 1 when there is no such key, or the disk would not; 2 when
something that was given is wrong. What is wrong is one line.
"""

import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway import kinds
from gateway.config import Settings
from gateway.policy.keys import MOMENT_ALLOWED, Key, digest_of, parse_moment, spell_moment
from gateway.policy.spending import problem
from gateway.web import keydisk, keyfile
from gateway.web.auth import FIRST_KEY
from gateway.web.keyfile import NotEditable, Reading

app = typer.Typer(
    no_args_is_help=True,
    help="""Make, list, end and check the keys of callers, in the file that API_KEYS_FILE names.

    Exit code 1 when there is no such key or the file cannot be written, 2 when something that was given is wrong.
    """,
)

NAME = "API_KEYS_FILE"
_NOT_FOUND, _WRONG = 1, 2

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="What logs and lists call the key: letters, digits, . _ - and @.")
]
Expires = Annotated[
    str | None,
    typer.Option(
        metavar="WHEN", help="When it ends: 30d, 2027-01-31 (that whole day, UTC), 2027-01-31T12:00+01:00, never."
    ),
]


@app.command()
def new(
    context: typer.Context,
    name: Name,
    rpm: Annotated[str | None, typer.Option(metavar="N", help="Requests per minute.")] = None,
    tpm: Annotated[str | None, typer.Option(metavar="N", help="Tokens per minute.")] = None,
    max_concurrent: Annotated[str | None, typer.Option(metavar="N", help="Requests at once.")] = None,
    monthly_spend: Annotated[
        str | None, typer.Option(metavar="DOLLARS", help="In a calendar month, UTC; needs HOURLY_PRICE.")
    ] = None,
    expires: Expires = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A model that it may ask for; once for each. Without: all.")
    ] = None,
    route: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="A path that it may use; once for each. Without: all.")
    ] = None,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Never to a fallback that is paid per token.")
    ] = False,
) -> None:
    """Make a key. It is printed once, alone on standard output; the file gets its hash."""
    if (wrong := keyfile.name_problem(name)) is not None:
        raise _stop(_WRONG, f"NAME: {wrong}")
    secret = _new_secret()
    key = Key(
        name,
        digest_of(secret.encode()),
        requests_per_minute=_number("--rpm", rpm),
        tokens_per_minute=_number("--tpm", tpm),
        max_concurrent=_number("--max-concurrent", max_concurrent),
        monthly_spend=_parsed("--monthly-spend", monthly_spend, kinds.MONEY),
        fallback=not no_fallback,
        expires=_when(expires),
        models=frozenset(_parsed("--model", each, kinds.TEXT) for each in model or ()),
        routes=frozenset(_parsed("--route", each, kinds.PATH) for each in route or ()),
    )
    settings = context.obj()
    place = _place(settings)
    with _editing(place) as edit:
        if any(known.name == name for known in edit.keys):
            raise _stop(_WRONG, f"{name} is there already; `wakegate keys rotate {name}` gives it a new key")
        edit.save([*edit.keys, key])
    if (lacks := problem([key], _price(settings))) is not None:
        _say(f"warning: {lacks}")
    _hand_over(secret, f"{name} is in {place.path}; this is its key, which is shown only now.", place)


@app.command("list")
def list_(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="For programs: one list.")] = False
) -> None:
    """Show the keys, until when they are right, and what each may. Never the keys themselves."""
    settings = context.obj()
    place = _place(settings)
    reading = _in_force(place)
    rows = [_shown(key) for key in reading.keys]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if rows:
        _table([("name", "state", "expires", "limits", "hash"), *(_cells(row) for row in rows)])
    else:
        _say(f"No keys in {place.path} yet: `wakegate keys new NAME` makes one.")
    for line in (*reading.warnings, *_beside(settings, place)):
        _say(line)


@app.command()
def revoke(context: typer.Context, name: Name) -> None:
    """End a key: within seconds it is wrong for a gateway that runs."""
    place = _place(context.obj())
    with _editing(place) as edit:
        edit.find(name)
        edit.save([key for key in edit.keys if key.name != name])
    _say(f"{name} is gone from {place.path}; a gateway that runs knows within seconds.")


@app.command()
def rotate(
    context: typer.Context,
    name: Name,
    keep_old: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long the old key goes on being right: 24h. Without: not at all."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="When the new key ends. Without: when the old one would have.")
    ] = None,
) -> None:
    """Give a name a new key with the same limits. The old one ends at once, or after --keep-old."""
    keep = _parsed("--keep-old", keep_old, kinds.SPAN)
    place = _place(context.obj())
    now = time.time()
    secret = _new_secret()
    with _editing(place) as edit:
        old = edit.find(name)
        end = _when(expires) if expires is not None else old.expires
        if end is not None and end <= now:
            raise _stop(
                _WRONG, f"--expires: {name} ends at {spell_moment(end)}, which is over; give a later time, or never"
            )
        kept = [key for key in edit.keys if not (_is_old(key, name) and key.has_expired(now))]
        changed = replace(old, digest=digest_of(secret.encode()), expires=end)
        keys = [changed if key.name == name else key for key in kept]
        said = "The old one is wrong from now on."
        if keep is not None:
            until = float(int(now + keep) + 1)
            until = until if old.expires is None else min(until, old.expires)
            keys.append(replace(old, name=_free_name(name, keys), expires=until))
            said = f"The old one, now called {keys[-1].name}, is right until {spell_moment(until)}."
        edit.save(keys)
    _hand_over(secret, f"{name} has a new key, which is shown only now. {said}", place)


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Lines such as name:key[:rpm[:expiry]], or another file of keys.")
    ],
) -> None:
    """Take over the keys of another file, those in clear text as hashes."""
    place = _place(context.obj())
    reading = _read(file)
    target = place
    if _same(file, place.path):  # the gateway reads the clear text itself: the hashes go where they are by habit
        target = _Place(place.usual, False, place.usual)
        if _same(file, target.path):
            raise _stop(_WRONG, f"{file} is where keys are kept; give it another name first, and import that")
    with _editing(target) as edit:
        known = {key.name: key for key in edit.keys}
        clash = [key.name for key in reading.keys if key.name in known and known[key.name].digest != key.digest]
        if clash:
            raise _stop(_WRONG, f"{target.path} has other keys called {', '.join(clash)}; nothing was taken over")
        taken = [key for key in reading.keys if key.name not in known]
        edit.save([*edit.keys, *taken])
    there = "" if len(taken) == len(reading.keys) else "; the others were there already"
    _say(f"{len(taken)} of {len(reading.keys)} keys taken over into {target.path}{there}")
    if not target.is_set:
        _say(f"Set {NAME}={target.path}")
    if reading.clear:
        _say(f"Then delete {file}: {len(reading.clear)} of its keys stand there in clear text.")


@app.command()
def check(
    context: typer.Context,
    source: Annotated[
        str | None, typer.Argument(metavar="-", help="Whose key is it that comes on standard input?")
    ] = None,
) -> None:
    """Check the file; or, with `-`, say whose key it is that comes on standard input, and what it may."""
    if source not in (None, "-"):
        raise _stop(
            _WRONG, "a key on a command line can be read by everybody here; pipe it into `wakegate keys check -`"
        )
    settings = context.obj()
    place = _place(settings)
    secret = _key_from_input() if source == "-" else b""
    reading = _in_force(place)
    for line in reading.warnings:
        _say(f"warning: {line}")
    if source == "-":
        _identify(digest_of(secret), reading, settings)
        return
    if not place.path.exists():
        _say(f"{NAME} is not set, and {place.path} is not there: there is nothing to check.")
        return
    _refuse(place.path, keyfile.clashes(reading.keys, (key for key in _own_keys(settings) if key.name != "admin")))
    if (lacks := problem(reading.keys, _price(settings))) is not None:
        _refuse(place.path, (lacks,))
    for line in keydisk.take(place.path).doubts(clear=bool(reading.clear)):
        _say(f"warning: {place.path}: {line}")
    ended = [key.name for key in reading.keys if key.has_expired(time.time())]
    over = f", expired: {', '.join(ended)}" if ended else ""
    count = f"{len(reading.keys)} {'key' if len(reading.keys) == 1 else 'keys'}"
    typer.echo(f"{place.path} is right: {count}{over}")


# --- Where the keys are -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the keys are, or will be."""

    path: Path
    is_set: bool
    """Whether API_KEYS_FILE says so, and not only habit."""
    usual: Path


def _price(settings: Settings) -> int | None:
    """None: nothing can be counted. What is rented has its vendor's price, which nobody knows before."""
    return 0 if settings.rents else settings.hourly_price


def _place(settings: Settings) -> _Place:
    usual = settings.data_dir / "keys" / "keys.toml"
    return _Place(settings.api_keys_file or usual, settings.api_keys_file is not None, usual)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _in_force(place: _Place) -> Reading:
    """What is in the file; nothing where nobody has made one yet."""
    return _read(place.path) if place.is_set or place.path.exists() else Reading()


def _read(path: Path) -> Reading:
    """The file, if nothing is wrong with it."""
    try:
        reading = keyfile.read(keydisk.take(path).raw)
    except keydisk.Unreadable as error:
        raise _stop(_WRONG, f"{path} cannot be read ({error})") from error
    _refuse(path, reading.problems)
    return reading


def _refuse(path: Path, problems: tuple[str, ...]) -> None:
    for each in problems[:-1]:
        _say(f"{path}: {each}")
    if problems:
        raise _stop(_WRONG, f"{path}: {problems[-1]}")


class _Edit:
    """One change of the file, alone with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text = ""
        self.keys: tuple[Key, ...] = ()
        if path.exists():
            reading = _read(path)
            if reading.form == "lines":
                raise _stop(
                    _WRONG,
                    f"{path} has one key a line, and is changed by hand; `wakegate keys import {path}` makes the "
                    "other form of it",
                )
            self.keys = reading.keys
            self._text = keydisk.take(path).raw.decode("utf-8-sig")

    def find(self, name: str) -> Key:
        for key in self.keys:
            if key.name == name:
                return key
        names = ", ".join(key.name for key in self.keys) or "none"
        raise _stop(_NOT_FOUND, f"there is no key of this name in {self._path}; there are: {names}")

    def save(self, keys: list[Key]) -> None:
        try:
            keydisk.put(self._path, keyfile.rewrite(self._text, keys))
        except NotEditable as error:
            raise _stop(_WRONG, f"{self._path}: {error}") from error


@contextmanager
def _editing(place: _Place) -> Iterator[_Edit]:
    path = place.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = _target(path)
        with keydisk.locked(path) as alone:
            if not alone:
                _say(f"warning: the volume of {path} has no locks: nobody else should change it now")
            yield _Edit(path)
    except keydisk.Busy:
        raise _stop(
            _NOT_FOUND, f"another `wakegate keys` has been changing {path} for {keydisk.LOCK_WAIT:.0f} s"
        ) from None
    except OSError as error:
        raise _stop(_NOT_FOUND, f"{path} cannot be written ({error.strerror or error})") from error


def _target(path: Path) -> Path:
    """Where a link leads, so that it stays one when the file is replaced. Raises OSError."""
    try:
        return path.resolve()
    except RuntimeError as error:  # before Python 3.13
        raise OSError("a link that leads to itself") from error


def _beside(settings: Settings, place: _Place) -> Iterator[str]:
    """What else decides who may."""
    if not place.is_set and place.path.exists():
        yield f"{NAME} is not set, so a gateway here reads none of these; set it to {place.path}"
    for name, secret in (("API_KEY", settings.api_key), ("ADMIN_KEY", settings.admin_key)):
        if secret is not None:
            yield f"{name} is a key, too."
    if (first := _first_key(settings)) is not None:
        yield f"The first key ({first}) is a key, too."
    if settings.auth_enabled is False:
        yield "AUTH_ENABLED is false: nobody is asked for a key."


# --- What was given ---------------------------------------------------------------------------------------------------


def _parsed(option: str, text: str | None, kind: kinds.Kind) -> Any:
    try:
        return kind.read(text)
    except ValueError as error:
        raise _stop(_WRONG, f"{option}: {kind.complaint(text, str(error))}") from error


def _number(option: str, text: str | None) -> int | None:
    number: int | None = _parsed(option, text, kinds.COUNT)
    return number


def _when(text: str | None) -> float | None:
    """A time from now, or a moment."""
    if text is None or text.lower() == "never":
        return None
    for parse in (_from_now, parse_moment):
        try:
            moment = parse(text)
        except ValueError:
            continue
        if moment <= time.time():
            raise _stop(_WRONG, f"--expires: {spell_moment(moment)} is over already")
        return moment
    raise _stop(_WRONG, f"--expires: {kinds.shown(text)} is not a time; allowed: 30d, 12h, never, or {MOMENT_ALLOWED}")


def _from_now(text: str) -> float:
    if text.isdigit():
        raise ValueError  # 2027 is a year
    return float(int(time.time() + kinds.parse_duration(text)) + 1)


def _new_secret() -> str:
    return "sk-wakegate-" + secrets.token_urlsafe(24)


def _is_old(key: Key, name: str) -> bool:
    return re.fullmatch(rf"{re.escape(name[:34])}-old[0-9]*", key.name) is not None


def _free_name(name: str, keys: list[Key]) -> str:
    taken = {key.name for key in keys}
    names = (f"{name[:34]}-old{'' if nth == 1 else nth}" for nth in range(1, 1000))
    return next(each for each in names if each not in taken)


def _key_from_input() -> bytes:
    """The key that comes on standard input, or is typed unseen."""
    if sys.stdin.isatty():
        import getpass

        text = getpass.getpass("Key: ").encode("utf-8", "surrogateescape").strip()
    else:
        text = sys.stdin.buffer.read(65_536).strip()
    if not text or len(text.split()) > 1:
        raise _stop(_WRONG, "standard input holds no key" if not text else "standard input holds more than one word")
    return text


# --- What is said -----------------------------------------------------------------------------------------------------


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _stop(code: int, line: str) -> typer.Exit:
    """`raise _stop(code, line)`."""
    _say(line)
    return typer.Exit(code)


def _hand_over(secret: str, said: str, place: _Place) -> None:
    """The key goes where a script can take it from, everything else beside."""
    _say(said)
    typer.echo(secret)
    _say("Send it as `Authorization: Bearer <key>`; behind RunPod's load balancer as `X-API-Key: <key>`.")
    if not place.is_set:
        _say(f"{NAME} is not set. Set {NAME}={place.path}, and start the gateway again.")


def _shown(key: Key) -> dict[str, object]:
    """A key for people and programs."""
    return {
        "name": key.name,
        "hash": f"sha256:{key.digest.hex()}",
        "expired": key.has_expired(time.time()),
        "expires": None if key.expires is None else spell_moment(key.expires),
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "max_concurrent": key.max_concurrent,
        "monthly_spend": None if key.monthly_spend is None else key.monthly_spend / 1_000_000,
        "fallback": key.fallback,
        "models": sorted(key.models),
        "routes": sorted(key.routes),
    }


_LIMITS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("requests_per_minute", "{}/min".format),
    ("tokens_per_minute", "{} tokens/min".format),
    ("max_concurrent", "{} at once".format),
    ("monthly_spend", "${:g}/month".format),
    ("models", lambda names: f"models {', '.join(names)}"),
    ("routes", lambda names: f"routes {', '.join(names)}"),
)


def _limits(row: dict[str, object]) -> str:
    said = [spell(row[name]) for name, spell in _LIMITS if row[name] not in (None, [])]
    return "; ".join([*said, *([] if row["fallback"] else ["no fallback"])]) or "none"


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    state = "expired" if row["expired"] else "right"
    return str(row["name"]), state, str(row["expires"] or "never"), _limits(row), f"{str(row['hash'])[:15]}…"


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _identify(digest: bytes, reading: Reading, settings: Settings) -> None:
    """Whose key it is. Exit code 1 when it is nobody's, or has expired."""
    keys = {key.digest: key for key in (*_own_keys(settings), *reading.keys)}
    key = keys.get(digest)
    if key is None:
        raise _stop(_NOT_FOUND, "no key of this gateway")
    if key.has_expired(time.time()):
        raise _stop(_NOT_FOUND, f"{key.name}, expired at {spell_moment(key.expires or 0)}")
    end = "never expires" if key.expires is None else f"expires at {spell_moment(key.expires)}"
    typer.echo(f"{key.name}, {end}, limits: {_limits(_shown(key))}")


def _own_keys(settings: Settings) -> Iterator[Key]:
    """Those that are not in the file."""
    for name, secret in (("admin", settings.admin_key), ("api-key", settings.api_key)):
        if secret is not None:
            yield Key.of(name, secret.get_secret_value())
    if (place := _first_key(settings)) is not None:
        try:
            first = place.read_text("utf-8").strip()
        except (OSError, ValueError):
            return
        if first:
            yield Key.of("first-key", first)


def _first_key(settings: Settings) -> Path | None:
    """Where the first key lies that was made here, if it is one: any other setting of keys takes its place."""
    place = settings.data_dir / "keys" / FIRST_KEY
    return place if settings.api_key is None and settings.api_keys_file is None and place.exists() else None
