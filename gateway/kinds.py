"""What sorts of values settings have: how each is read from text, how it is written, and what a message says of it.

Pure and below `config`, which names the settings themselves. A text from the environment and a typed value from TOML go
through the same reader, so that `10m` and `600` mean the same everywhere. Two rules for whoever adds a kind: `parse`
raises ValueError, and neither its message nor anything else repeats a value that may be a secret.
"""

import ipaddress
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Kind:
    """What sort of value a setting has: how it is read from text, and what a message says when it cannot be."""

    noun: str
    allowed: str
    parse: Callable[[str], object]
    """Text to value. Raises ValueError, without the text in its message (it may be shown nowhere)."""
    spell: Callable[[Any], str] = str
    """Value to text, so that reading it gives the value again."""
    hidden: bool = False
    """The value is, or may hold, a secret: no message repeats it."""

    def read(self, value: object) -> object:
        """A text, or what TOML or a test has in its place. Raises ValueError."""
        match value:
            case None | Path() | SecretStr():
                return value
            case str():
                return self.parse(value.strip())
            case bool():
                return self.parse("true" if value else "false")
            case int() | float():
                return self.parse(repr(value))
            case list() | tuple() | dict():
                return self.parse(json.dumps(value, default=_unreadable))
            case _:
                raise ValueError("a value of this type is never right here")

    def complaint(self, value: object, detail: str) -> str:
        """`"eighty" is not a port; allowed: 1 to 65535`."""
        reason = f" ({detail})" if detail else ""
        what = "the value (not shown)" if self.hidden else shown(value)
        return f"{what} is not {self.noun}{reason}; allowed: {self.allowed}"

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))


def _unreadable(value: object) -> object:
    raise ValueError("it holds a value that no setting has")


_LOOKS_SECRET = re.compile(r"\b(sk|rpa|hf|wk|ws|gsk|ghp)[-_]\w", re.IGNORECASE)
_URL_SECRETS = re.compile(r"(?<=://)[^/?#\s]*@|[?#].*", re.DOTALL)


def shown(value: object) -> str:
    """As a message may repeat it: quoted, short, on one line, and without what looks like a key somebody mislaid."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if _LOOKS_SECRET.search(text):
        return "the value (not shown: it looks like a key)"
    text = _URL_SECRETS.sub("…", text)
    return json.dumps(text if len(text) <= 60 else text[:57] + "…", ensure_ascii=False)


_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SPAN_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_SPAN_MAX = 1e9
"""Seconds, some thirty years: a deadline that far away still adds up."""
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?(?:([kmgt])(i?)b?|b)?", re.IGNORECASE)
_NEVER = ("never", "off", "none")


def parse_duration(text: str) -> float:
    """Seconds from `90`, `90s`, `10m`, `2h`, `1.5h`, `1h30m`, `1d`, `500ms`. Raises ValueError."""
    text = text.lower()
    parts = [(text, "s")] if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else _SPAN.findall(text)
    if not parts or text not in (parts[0][0], "".join(number + unit for number, unit in parts)):
        raise ValueError
    # Divided rather than multiplied: 123ms is the same float as 0.123.
    seconds = sum(float(n) / 1000 if unit == "ms" else float(n) * _SPAN_UNITS[unit] for n, unit in parts)
    if seconds > _SPAN_MAX:
        raise ValueError("longer than thirty years")
    return seconds


def spell_duration(seconds: float | None) -> str:
    """The shortest spelling in one unit: 900.0 is `15m`. None is `never`."""
    if seconds is None:
        return "never"
    for unit in ("d", "h", "m"):
        count = seconds / _SPAN_UNITS[unit]
        if count >= 1 and count.is_integer() and not (unit == "d" and count == 1):
            return f"{count:.0f}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def parse_size(text: str) -> int:
    """Bytes from `4096`, `10M` (a million each), `30MiB` or `30Mi` (1024 × 1024 each). Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError
    number, letter, binary = match.groups()
    whole, _, part = number.partition(".")
    step: int = (1024 if binary else 1000) ** " kmgt".index((letter or " ").lower())
    scale: int = 10 ** len(part)
    size, rest = divmod(int(whole + part) * step, scale)  # 0.57M is exactly 570000
    if rest or size >= 2**53:
        raise ValueError("not a whole number of bytes" if rest else "larger than anything")
    return size


def spell_size(size: int) -> str:
    """The shortest spelling in one unit: 31457280 is `30MiB`."""
    for power in (4, 3, 2, 1):
        for step, suffix in ((1024, "iB"), (1000, "")):
            if size and size % step**power == 0:
                return f"{size // step**power}{' KMGT'[power] if suffix else ' kMGT'[power]}{suffix}"
    return str(size)


def _size_or_off(text: str) -> int | None:
    if text.lower() in _NEVER:
        return None
    if (size := parse_size(text)) == 0:
        raise ValueError("zero would end everything at once")
    return size


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return parse


def _span(*, zero: bool, words: tuple[str, ...] = ()) -> Callable[[str], float | None]:
    def parse(text: str) -> float | None:
        if text.lower() in words:
            return None
        seconds = parse_duration(text)
        if seconds == 0 and not zero:
            raise ValueError("zero would end everything at once")
        return seconds

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return parse


_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError
    return _SWITCH[text.lower()]


def _switch_or_auto(text: str) -> bool | None:
    return None if text.lower() == "auto" else _switch(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", text) or not 0 < float(text) <= 1:
        raise ValueError
    return float(text)


def _text(text: str) -> str:
    if not text or any(not c.isprintable() for c in text):
        raise ValueError("empty, or with control characters in it")
    return text


def _secret(text: str) -> SecretStr:
    """A key travels in a header: printable, without spaces. A file with two keys in it is the usual mistake."""
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("it has a space, a line break or a control character in it")
    return SecretStr(text)


def _log_name(text: str) -> str:
    """A folder under `logs/`, beside the boot logs."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ValueError
    return text


def is_host_name(text: str) -> bool:
    labels = text.rstrip(".").split(".")
    fit = all(re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", label) for label in labels)
    # "2130706433" and "0x7f.1" are addresses to some resolvers and names to others: no.
    return fit and len(text) <= 253 and not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1], re.IGNORECASE)


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if address_of(bare) is None and (not is_host_name(bare) or "_" in bare):
        raise ValueError
    return bare


def _media_host(text: str) -> str:
    """`host`, `host:port`, or `*.suffix`, in lower case: as proxy/checks.py compares them."""
    host, colon, port = text.lower().removeprefix("*.").partition(":")
    if colon:
        _whole(1, 65535)(port)
    if not is_host_name(host) and address_of(host) is None:
        raise ValueError
    return text.lower()


def _field(text: str) -> str:
    if not re.fullmatch(r"[+-]?[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", text):
        raise ValueError
    return text


def _upstream_url(text: str) -> str:
    """Normal form: scheme, host and port, no path. Raises ValueError with what is wrong with it."""
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError("it has a space, a control character or a backslash in it")
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise ValueError("it does not begin with http:// or https://")
    if "@" in url.netloc:
        raise ValueError("it has a user name in it; a key belongs in UPSTREAM_API_KEY")
    if url.query or url.fragment or "?" in text or "#" in text:
        raise ValueError("it has a query or a fragment")
    if url.path.rstrip("/") not in ("", "/v1"):
        raise ValueError("it has a path other than /v1")
    host = url.hostname or ""
    if address_of(host) is None and not is_host_name(host):
        raise ValueError("its host is neither a name nor an address")
    port = url.port  # ValueError: not a port
    if port == 0 or url.netloc.endswith(":"):
        raise ValueError("its port is missing or 0")
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{'' if port is None else f':{port}'}"


def _base_url(text: str) -> str:
    """As OpenAI's SDKs have it: with whatever stands before `/chat/completions`; `/v1` where nothing does."""
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError("it has a space, a control character or a backslash in it")
    url = urlsplit(text)
    if "@" in url.netloc:
        raise ValueError("it has a user name in it; a key belongs in FALLBACK_API_KEY")
    if "?" in text or "#" in text:
        raise ValueError("it has a query or a fragment")
    path = url.path.rstrip("/")
    if path.endswith("/completions"):
        raise ValueError("it names a route; leave out what begins with /chat or /completions")
    if path:
        _url_path(path)
    return _upstream_url(url._replace(path="").geturl()) + (path or "/v1")


def _often(text: str) -> tuple[int, float] | None:
    """`20/10m`: so many, and the span in seconds."""
    if text.lower() in _NEVER:
        return None
    count, slash, span = text.partition("/")
    seconds = parse_duration(span.strip())
    if not slash or not seconds:
        raise ValueError
    return _whole(1, 100_000)(count.strip()), seconds


def _url_path(text: str) -> str:
    """A path as it stands on the wire, which is compared byte by byte."""
    if not re.fullmatch(r"/[A-Za-z0-9._~!$&'()*+,=:@/-]*", text) or "//" in text or re.search(r"/\.{1,2}(/|$)", text):
        raise ValueError
    return text


def _items(text: str) -> tuple[str, ...]:
    """Comma-separated, or a JSON list of strings."""
    items = _json_list(text) if text.startswith("[") else (item.strip() for item in text.split(",") if item.strip())
    return tuple(_text(item) for item in items)


def _each(check: Callable[[str], str], *, none: tuple[str, ...] = ()) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        return () if text.lower() in none else tuple(check(item) for item in _items(text))

    return parse


def _words(text: str) -> tuple[str, ...]:
    """Split as a shell would, without a shell; or a JSON list of strings."""
    if text.startswith("["):
        return _json_list(text)
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise ValueError("a quotation mark is not closed") from None


def _json_list(text: str) -> tuple[str, ...]:
    try:
        items = json.loads(text)
    except ValueError:
        raise ValueError("it begins like a JSON list and is none") from None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError("the JSON list holds something that is not a string")
    return tuple(items)


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`A=1 B="two words"` as a shell would split it, or a JSON object of strings."""
    if text.startswith(("{", "[")):
        try:
            pairs = list(dict(json.loads(text)).items())
        except (ValueError, TypeError):
            raise ValueError("it begins like a JSON object and is none") from None
        pairs = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in pairs]
    else:
        split = [word.partition("=") for word in _words(text)]
        if not all(equals for _, equals, _ in split):
            raise ValueError("a word has no = in it")
        pairs = [(name, value) for name, _, value in split]
    if not all(isinstance(name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name, _ in pairs):
        raise ValueError("a name is not one that an environment can hold")
    if any("\0" in value for _, value in pairs):
        raise ValueError("a value holds a NUL")
    return tuple(dict(pairs).items())


def _layers(text: str) -> int | Literal["auto", "all"]:
    """-1 is how llama-cpp-python spells `all`."""
    if text.lower() == "auto":
        return "auto"
    return "all" if text.lower() in ("all", "-1") else _whole(0, 10_000)(text)


def _folder(text: str) -> Path:
    return Path(_text(text))


def _network(text: str) -> str:
    """An address or a network in CIDR form, in its normal spelling; `private` is every network that is not public."""
    if text.lower() == "private":
        return "private"
    return str(ipaddress.ip_network(text, strict=False))


def _origin(text: str) -> str:
    """`scheme://host[:port]`, as browsers send it: lower case, no path, no default port; or `*`."""
    if text == "*":
        return text
    url = urlsplit(text.lower())
    default = {"http": 80, "https": 443}.get(url.scheme)
    host = url.hostname or ""
    plain = url.path in ("", "/") and not url.query and not url.fragment and "@" not in url.netloc
    if default is None or not plain or (address_of(host) is None and not is_host_name(host)):
        raise ValueError("it is not of the form https://host or http://host:port")
    port = "" if url.port in (None, default) else f":{url.port}"
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _money(text: str) -> int:
    """Dollars as micro-dollars: sums of them are exact."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise ValueError
    whole, _, part = text.partition(".")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0") or 0)


def _spell_money(value: int) -> str:
    whole, part = divmod(value, 1_000_000)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")


def _money_or_unlimited(text: str) -> int | str:
    return "unlimited" if text.lower() == "unlimited" else _money(text)


def _spell_budget(value: int | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _spell_money(value)


def _providers(text: str) -> str:
    """One, or several that rent, in order."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names) or any(name not in (*HERE, *RENTED) for name in names):
        raise ValueError
    if len(names) > 1 and not set(names) <= set(RENTED):
        raise ValueError("only those that rent can stand in a list")
    return ",".join(names)


def _vendor_url(text: str) -> str:
    """A vendor's API: scheme, host and path, without a slash at the end."""
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError("it has a space, a control character or a backslash in it")
    url = urlsplit(text)
    if "@" in url.netloc:
        raise ValueError("it has a user name in it; a key belongs in a setting of its own")
    if "?" in text or "#" in text:
        raise ValueError("it has a query or a fragment")
    return _upstream_url(url._replace(path="").geturl()) + url.path.rstrip("/")


def _proxy_url(text: str) -> str:
    """RunPod's form: `https://{pod_id}-{port}.proxy.runpod.net`."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-_:{}\[\]]+/?", text) or re.search(r"\{(?!pod_id\}|port\})", text):
        raise ValueError("only {pod_id} and {port} are filled in, and it has no path")
    _upstream_url(text.replace("{pod_id}", "abc").replace("{port}", "1"))
    return text.rstrip("/")


def _web_hook(text: str) -> str:
    """Any URL that something can be posted to; its path and query are often the secret."""
    url = urlsplit(text)
    if re.search(r"[\x00-\x20\x7f\\]", text) or url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError
    return text


def _state_url(text: str) -> str:
    url = urlsplit(text)
    if re.search(r"[\x00-\x20\x7f]", text) or url.scheme not in ("redis", "rediss", "sqlite"):
        raise ValueError
    if url.scheme == "sqlite" and (url.netloc or not url.path.startswith("/")):
        raise ValueError("a file is written with three slashes and its whole path")
    if url.scheme != "sqlite" and not url.hostname:
        raise ValueError("it names no host")
    return text


def _vendor_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", text):
        raise ValueError
    return text


def _fingerprint(text: str) -> str:
    """Of a certificate (SHA-256), as openssl and we print it: colons or none, lower or upper case."""
    plain = text.lower().removeprefix("sha256:").removeprefix("sha256 fingerprint=").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise ValueError
    return plain


def _schedule(text: str) -> tuple[str, ...]:
    """Spans, separated by semicolons or line breaks, or a list; what each says is read by policy/schedule.py."""
    parts = _json_list(text) if text.startswith("[") else re.split(r"[;\n]", text)
    return tuple(part.strip() for part in parts if part.strip())


def _spell_switch(value: bool | None) -> str:
    return "auto" if value is None else "true" if value else "false"


def _warmup(text: str) -> bool | Path:
    return _SWITCH[text.lower()] if text.lower() in _SWITCH else _folder(text)


def _spell_warmup(value: bool | Path) -> str:
    return str(value) if isinstance(value, Path) else "on" if value else "off"


def _spell_words(value: tuple[str, ...]) -> str:
    return shlex.join(value) if not value or not value[0].startswith("[") else json.dumps(value)


HERE = ("local", "external")
RENTED = ("runpod-pod", "vast")
"""Providers that cost money."""
PROVIDERS = Kind(
    "a provider",
    f"{', '.join((*HERE, *RENTED))}, or those that rent in order: {','.join(RENTED)}",
    _providers,
)
BUDGET = Kind("a budget", "dollars a month, such as 20, or unlimited", _money_or_unlimited, _spell_budget)
VENDOR_URL = Kind("the URL of a vendor's API", "such as https://api.runpod.io/v2", _vendor_url)
PROXY_URL = Kind("a form of URL", "such as https://{pod_id}-{port}.proxy.runpod.net", _proxy_url)
WEB_HOOK = Kind("a URL to post to", "https://…", _web_hook, hidden=True)
STATE_URL = Kind("a place for the ledger", "redis://host:port/0, rediss://… or sqlite:///path", _state_url, hidden=True)
VENDOR_ID = Kind("a vendor's id", "letters, digits and -, at most 64", _vendor_id)
SPEC = Kind("a pod to create", "the body of POST /pods as JSON, or the path of a file with it", _text, hidden=True)
FINGERPRINT = Kind("a certificate's fingerprint", "SHA-256, 64 hexadecimal digits, colons or none", _fingerprint)
SCHEDULE = Kind(
    "a list of times",
    "such as Mon-Fri 08:30-18:00 Europe/Berlin; several with ; between",
    _schedule,
    "; ".join,
)
PORT = Kind("a port", "1 to 65535", _whole(0, 65535))
"""0 is any free one; only tests can make use of that."""
COUNT = Kind("a whole number above zero", "1, 2, 3, …", _whole(1, 10**12))
COUNT_OR_ZERO = Kind("a whole number", "0, 1, 2, …", _whole(0, 10**12))
SHARE = Kind("a share", "above 0, up to 1, such as 0.9", _share)
SWITCH = Kind("a yes or no", "true, false, 1, 0, yes, no, on, off", _switch, _spell_switch)
SWITCH_AUTO = Kind("a yes or no", "auto, true, false, 1, 0, yes, no, on, off", _switch_or_auto, _spell_switch)
SIZE = Kind("a size", "bytes, or such as 10M, 512KiB, 30MiB, 2GiB", parse_size, spell_size)
SPAN = Kind("a time above zero", "seconds, or such as 90s, 10m, 2h", _span(zero=False), spell_duration)
SPAN_OR_ZERO = Kind("a time", "0, seconds, or such as 90s, 10m, 2h", _span(zero=True), spell_duration)
SPAN_OR_NEVER = Kind(
    "a time", "never, 0, seconds, or such as 90s, 10m, 2h", _span(zero=True, words=_NEVER), spell_duration
)
SPAN_OR_AUTO = Kind(
    "a time",
    "auto, 0, seconds, or such as 90s, 2m",
    _span(zero=True, words=("auto",)),
    lambda v: "auto" if v is None else spell_duration(v),
)
SPAN_OR_OFF = Kind(
    "a time above zero",
    "off, seconds, or such as 90s, 10m, 2h",
    _span(zero=False, words=_NEVER),
    lambda v: "off" if v is None else spell_duration(v),
)
SIZE_OR_OFF = Kind(
    "a size above zero",
    "off, bytes, or such as 10M, 512KiB, 30MiB, 2GiB",
    _size_or_off,
    lambda v: "off" if v is None else spell_size(v),
)
TEXT = Kind("a text", "printable characters", _text)
SECRET = Kind("a key", "printable characters without spaces", _secret, lambda _: "…", hidden=True)
HOST = Kind("an address to listen on", "an IP address or a host name, such as 0.0.0.0, 127.0.0.1, ::", _host)
URL = Kind("an upstream's URL", "http://host:port or https://host, with or without /v1", _upstream_url)
BASE_URL = Kind("an API's base URL", "such as https://api.example.com/v1", _base_url)
OFTEN = Kind(
    "so many in a time",
    "off, or such as 5/10m: five requests in ten minutes",
    _often,
    lambda value: "off" if value is None else f"{value[0]}/{spell_duration(value[1])}",
)
PATH = Kind("a path", "such as /ping: begins with one /, no query, nothing percent-encoded", _url_path)
PATHS = Kind("a list of paths", "such as /v1/score,/rerank: exact paths, commas between", _each(_url_path), ",".join)
MEDIA_HOSTS = Kind(
    "a list of hosts",
    "such as images.example.org, *.example.org, host:8443, commas between",
    _each(_media_host),
    ",".join,
)
NAMES = Kind("a list of names", "names with commas between, or a JSON list", _each(_text), ",".join)
FIELDS = Kind(
    "a list of fields",
    "names with commas between; +name and -name change the usual list; none",
    _each(_field, none=_NEVER),
    lambda value: ",".join(value) or "none",
)
COMMAND = Kind("a command", "words as a shell splits them, or a JSON list", _words, _spell_words, hidden=True)
PAIRS = Kind(
    "a list of NAME=value",
    'words such as A=1 B="two words", or a JSON object',
    _pairs,
    lambda value: json.dumps(dict(value)),
    hidden=True,
)
LAYERS = Kind("a number of layers", "auto, all, 0, 1, 2, …", _layers)
FOLDER = Kind("a folder", "a path", _folder)
FILE = Kind("a file", "a path", _folder)
WARMUP = Kind("a warm-up", "off, on, or the path of a file with a prompt", _warmup, _spell_warmup)
NETWORKS = Kind(
    "a list of addresses",
    "addresses and networks such as 10.0.0.7, 172.16.0.0/12, fd00::/8; private; commas between",
    _each(_network, none=_NEVER),
    ",".join,
)
ORIGINS = Kind(
    "a list of origins",
    "such as https://chat.example.org or http://localhost:3000, commas between; * is any",
    _each(_origin, none=_NEVER),
    ",".join,
)
MONEY = Kind("a sum", "dollars, such as 0.34, with at most six decimals", _money, _spell_money)
LOG_NAME = Kind("a name for a folder", "letters, digits, . _ -, at most 64", _log_name)


def some_of(*words: str) -> Kind:
    return Kind(
        "a list of what is known here", f"of {', '.join(words)}, commas between", _each(_choice(*words)), ",".join
    )


def one_of(*words: str) -> Kind:
    return Kind("known here", ", ".join(words), _choice(*words))
