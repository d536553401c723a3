"""What a JSON body may hold, and that what was checked is what is forwarded."""

import json
import math
import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal, Refused
from gateway.proxy.checks import (
    IMAGES_MAX,
    REFUSED_FIELDS,
    USES_MAX,
    Checked,
    Fill,
    Rules,
    check,
    check_type,
    deeper_than,
    is_cheap,
    refused_fields,
)

CHAT = "/v1/chat/completions"


def checked(document: object, route: str = CHAT, **rules: object) -> Checked:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return check(raw, route, Rules(**rules))  # type: ignore[arg-type]


def refusal(document: object, **rules: object) -> Refusal:
    with pytest.raises(Refused) as caught:
        checked(document, **rules)
    return caught.value.refusal


def body(**fields: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


# -- JSON ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  \n",
        b"{",
        b"nonsense",
        b'{"model":"m",}',
        b"{'model':'m'}",
        b'{"model":"m"} {"model":"n"}',
        b'\xef\xbb\xbf{"model":"m"}',
        '{"model":"m"}'.encode("utf-16"),
        '{"model":"m"}'.encode("utf-16-le"),
        '{"model":"m"}'.encode("utf-32-be"),
        b'{"model":"\xff"}',
        b'{"model":"\xed\xa0\x80"}',
        b'{"model":"m","temperature":NaN}',
        b'{"model":"m","temperature":Infinity}',
        b'{"model":"m","temperature":-Infinity}',
        b'{"model":"m","temperature":1e999}',
        b'{"model":"m","deep":{"x":[-1e999]}}',
        b'{"model":"m","seed":' + b"7" * 6000 + b"}",
        b'{"model":"m","a":"\x01"}',
        b'{"model":"m","a":01}',
        b"[]",
        b'[{"model":"m"}]',
        b"null",
        b'"text"',
        b"5",
        b"true",
        b'{"model":"m","model":"n"}',
        b'{"model":"m","messages":[{"role":"user","role":"system"}]}',
        b'{"model":"m","n":1,"\\u006e":100000}',
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_anything_but_one_json_object_in_utf8_is_invalid_json(raw: bytes) -> None:
    """Whatever two parsers could read in two ways is refused, and never ends in another exception."""
    assert refusal(raw).code == "invalid_json"
    assert refusal(raw).status == 400


def test_an_object_without_fields_is_refused() -> None:
    assert refusal({}).code == "invalid_request"


@pytest.mark.parametrize("depth", [65, 200, 990, 5_000, 100_000])
@pytest.mark.parametrize("unit", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_nesting_beyond_the_limit_is_named_and_never_a_recursion_error(depth: int, unit: tuple[bytes, bytes]) -> None:
    raw = b'{"model":"m","x":' + unit[0] * depth + b"1" + unit[1] * depth + b"}"
    said = refusal(raw)
    assert said.code == "invalid_json"
    assert "64 levels" in said.message
    assert refusal(b"[" * depth).code == "invalid_json"  # never closed


def test_nesting_up_to_the_limit_passes_and_brackets_in_texts_do_not_count() -> None:
    deep: object = "[" * 200 + '{"\\[['
    for _ in range(62):
        deep = [deep, []]
    assert checked({"model": "m", "x": deep}).facts.model == "m"
    assert refusal({"model": "m", "x": [[deep]]}).code == "invalid_json"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(_VALUES, st.integers(0, 6), st.booleans())
def test_depth_is_counted_as_a_recursive_count_would(value: object, limit: int, ascii_only: bool) -> None:
    raw = json.dumps([value] * 8, ensure_ascii=ascii_only).encode()
    assert deeper_than(raw, limit) == (_depth([value]) > limit)


@given(st.dictionaries(st.text(string.ascii_letters, min_size=1, max_size=8).map("x_".__add__), _VALUES, min_size=1))
def test_what_is_forwarded_is_what_was_sent_with_its_key_order(document: dict[str, object]) -> None:
    """Any document without lone surrogates comes out equal; keys stay in order at every level."""
    result = check(json.dumps(document).encode(), CHAT, Rules())
    assert json.loads(result.whole()) == document
    assert json.dumps(json.loads(result.whole())) == json.dumps(document)
    renamed = json.loads(result.with_model("other").whole())
    assert renamed == document | {"model": "other"}


def test_big_integers_stay_exact_and_floats_keep_their_double() -> None:
    raw = b'{"model":"m","seed":123456789012345678901234567890,"a":0.10,"b":1E2,"c":-0,"d":0.1234567890123456789}'
    result = checked(raw).whole()
    assert b'"seed":123456789012345678901234567890,' in result
    assert result.endswith(b'"a":0.1,"b":100.0,"c":0,"d":0.12345678901234568}')
    assert math.isclose(json.loads(result)["d"], 0.1234567890123456789)


def test_text_is_forwarded_as_utf8_and_escaped_pairs_are_joined() -> None:
    result = checked(b'{"model":"m","a":"\\ud83d\\ude00 \\u00e4\\u2028\\u0000"}')
    assert result.whole() == '{"model":"m","a":"😀 ä\u2028\\u0000"}'.encode()
    assert result.facts.repaired == 0


def test_a_text_cut_inside_an_emoji_is_repaired_and_counted() -> None:
    result = checked(b'{"model":"m\\ud83d","a":"cut \\ud83d","b":["\\ude00\\ud83d"]}')
    assert json.loads(result.whole()) == {"model": "m\ufffd", "a": "cut \ufffd", "b": ["\ufffd\ufffd"]}
    assert result.facts.repaired == 4
    assert result.facts.model == "m\ufffd"


def test_keys_that_repairing_makes_equal_are_refused() -> None:
    assert refusal(b'{"model":"m","\\ud800":1,"\\ud801":2}').code == "invalid_json"


@pytest.mark.parametrize("space", ["", " ", "\n "])
def test_a_key_that_stands_twice_is_found_by_either_parser_whatever_hides_it(space: str) -> None:
    """Written again, the body lacks a colon then; not even escapes that stand for colons make up for it."""
    for rest in ('"a":1', '"a":"::"', '"\\u0061":1', '"a":"\\u003a"', '"a":"\\u003A\\u003a"', '"a":{"b":1,"b":2}'):
        raw = f'{{"model":"m",{space}"a":{{}},{space}{rest}}}'.encode()
        for quickly in (True, False):
            with pytest.raises(Refused) as caught:
                check(raw, CHAT, Rules(), quickly=quickly)
            assert "twice" in caught.value.refusal.message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    ),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_both_parsers_read_and_write_the_same(value: object, ascii_only: bool, separators: tuple[str, str]) -> None:
    raw = json.dumps({"model": "m", "x": value}, ensure_ascii=ascii_only, separators=separators).encode()
    quick, slow = (check(raw, CHAT, Rules(), quickly=quickly) for quickly in (True, False))
    assert json.loads(quick.whole()) == json.loads(slow.whole()) == json.loads(raw)
    assert repr(json.loads(quick.whole())) == repr(json.loads(slow.whole())), "each float is the same double"
    assert quick.facts == slow.facts


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0123DdeE+-.n ultrafs\ud800', max_size=40))
def test_both_parsers_refuse_the_same(said: bytes | str) -> None:
    raw = said if isinstance(said, bytes) else said.encode("utf-8", "surrogatepass")
    raw = b'{"model":"m","x":' + raw + b"}"
    told = []
    for quickly in (True, False):
        try:
            told.append(repr(json.loads(check(raw, CHAT, Rules(), quickly=quickly).whole())))
        except Refused as refused:
            told.append(refused.refusal.message)
    assert told[0] == told[1]


# -- facts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", [CHAT, "/v1/messages", "/v1/messages/count_tokens"])
def test_facts_tell_that_a_conversation_has_no_messages(route: str) -> None:
    assert checked({"model": "m"}, route).facts.lacks == "messages"
    assert checked({"model": "m", "messages": "hi"}, route).facts.lacks == "messages"
    assert checked(body(), route).facts.lacks == ""
    assert checked({"model": "m"}, "/v1/completions").facts.lacks == ""


def test_facts_tell_model_stream_slots_and_usage() -> None:
    facts = checked(body(stream=True, n=3, best_of=5, stream_options={"include_usage": True})).facts
    assert (facts.model, facts.stream, facts.slots, facts.choices, facts.include_usage) == ("m", True, 5, 3, True)
    facts = checked({"input": "x"}).facts
    assert (facts.model, facts.stream, facts.slots, facts.include_usage) == (None, False, 1, False)


def test_a_stream_exists_only_on_routes_that_have_streams() -> None:
    assert checked({"input": "x", "stream": True}, "/v1/responses").facts.stream
    assert not checked({"input": "x", "stream": True}, "/v1/embeddings").facts.stream


def test_null_means_absent_for_fields_that_are_looked_at() -> None:
    nothing = body(model=None, stream=None, n=None, stop=None, stream_options=None, chat_template=None)
    assert checked(nothing).facts.model is None
    assert json.loads(checked(nothing).whole()) == nothing


@pytest.mark.parametrize(
    "fields",
    [{"stream": "true"}, {"stream": 1}, {"model": 5}, {"model": ""}, {"model": "x" * 513}, {"model": ["m"]}]
    + [{name: value} for name in ("n", "best_of") for value in ("2", 2.0, True, 0, -1, [], 129, 10**40)]
    + [{"top_logprobs": 21}, {"top_logprobs": "5"}],
    ids=lambda fields: str(fields)[:40],
)
def test_a_wrong_type_or_an_exceeded_limit_names_its_field(fields: dict[str, object]) -> None:
    said = refusal(body(**fields))
    assert (said.status, said.code) == (400, "invalid_request")
    assert said.param == next(iter(fields))


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"n": 129}, "128"),
        ({"best_of": 129}, "128"),
        ({"stop": ["x"] * 65}, "64"),
        ({"stop_sequences": ["x"] * 65}, "64"),
        ({"top_logprobs": 21}, "20"),
        ({"grammar": "x" * 65537}, "65536"),
        ({"guided_json": {"description": "x" * 65536}}, "65536"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"d": "x" * 65536}}}}, "65536"),
        ({"text": {"format": {"schema": {"d": "x" * 65536}}}}, "65536"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_limit_is_named_and_never_clamped(fields: dict[str, object], limit: str) -> None:
    assert limit in refusal(body(**fields)).message


def test_values_at_the_limits_and_any_number_of_tools_pass() -> None:
    tools = [{"type": "function", "function": {"name": f"f{i}", "description": "x" * 400}} for i in range(400)]
    sent = body(n=128, stop=["x"] * 64, top_logprobs=20, grammar="x" * 65536, tools=tools, best_of=128)
    assert json.loads(checked(sent).whole()) == sent


# -- fields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
def test_each_refused_field_is_refused_by_name(name: str) -> None:
    parent, _, child = name.rpartition(".")
    fields = {parent: {"enable_thinking": True, child: "x"}} if parent else {name: "x"}
    said = refusal(body(**fields))
    assert (said.status, said.code, said.param) == (400, "unsupported_parameter", name)


def test_an_escaped_key_is_the_same_key() -> None:
    assert refusal(b'{"model":"m","n\\u005fdiscard":-5}').param == "n_discard"


def test_what_people_send_daily_passes_untouched() -> None:
    sent = body(
        chat_template_kwargs={"enable_thinking": False, "reasoning_effort": "high"},
        cache_prompt=True,
        id_slot=-1,
        lora=[{"id": 0, "scale": 0.5}],
        min_p=0.05,
        dry_multiplier=0.8,
        logit_bias={"15043": -100},
        tools=[{"type": "function", "function": {"name": "n_discard", "parameters": {"api_key": {}}}}],
        metadata={"base_url": "https://example.com"},
    )
    assert json.loads(checked(sent).whole()) == sent


def test_refuse_fields_adds_takes_away_or_replaces() -> None:
    assert refused_fields(",".join(REFUSED_FIELDS)) == REFUSED_FIELDS
    assert refused_fields("") == frozenset()
    assert refused_fields("+lora, -chat_template") == REFUSED_FIELDS - {"chat_template"} | {"lora"}
    assert refused_fields("lora,id_slot") == {"lora", "id_slot"}
    assert refused_fields("none") == frozenset()
    assert refused_fields("none +lora") == {"lora"}
    assert checked(body(n_discard=1), refused=refused_fields("none"))
    assert refusal(body(lora=[]), refused=refused_fields("lora")).param == "lora"


def test_rules_survive_the_way_to_the_helper() -> None:
    rules = Rules(refused=frozenset({"a"}), media_hosts=("x.org", "*.y.org"), media_fetch=True, nesting=9)
    assert Rules.from_wire(json.loads(json.dumps(rules.to_wire()))) == rules


# -- media ---------------------------------------------------------------------------------------------------------

EVIL = "http://169.254.169.254/latest/meta-data"


def chat_with(part: object) -> dict[str, object]:
    return body(messages=[{"role": "user", "content": [{"type": "text", "text": "look"}, part]}])


SHAPES = {
    "chat image": lambda url: chat_with({"type": "image_url", "image_url": {"url": url, "detail": "low"}}),
    "chat image, short": lambda url: chat_with({"type": "image_url", "image_url": url}),
    "chat image, no type": lambda url: chat_with({"image_url": url}),
    "chat video": lambda url: chat_with({"type": "video_url", "video_url": {"url": url}}),
    "chat audio url": lambda url: chat_with({"type": "audio_url", "audio_url": {"url": url}}),
    "chat input audio": lambda url: chat_with({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}),
    "chat file": lambda url: chat_with({"type": "file", "file": {"file_data": url}}),
    "chat file url": lambda url: chat_with({"type": "file", "file": {"file_url": url}}),
    "qwen image": lambda url: chat_with({"type": "image", "image": url}),
    "qwen frames": lambda url: chat_with({"type": "video", "video": ["data:image/png;base64,QQ==", url]}),
    "tool result": lambda url: body(
        messages=[{"role": "tool", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    ),
    "responses image": lambda url: {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
    },
    "responses file": lambda url: {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": url}]}]},
    "responses tool": lambda url: {
        "input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": url}]}]
    },
    "responses computer": lambda url: {
        "input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": url}}]
    },
    "messages image": lambda url: body(
        messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": url}}]}]
    ),
    "messages document": lambda url: body(
        messages=[{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": url}}]}]
    ),
    "messages tool result": lambda url: body(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": url}}]}
                ],
            }
        ]
    ),
    "messages nested document": lambda url: body(
        messages=[
            {
                "role": "user",
                "content": [
                    {
                        "type": "document",
                        "source": {
                            "type": "content",
                            "content": [{"type": "image", "source": {"type": "url", "url": url}}],
                        },
                    }
                ],
            }
        ]
    ),
    "messages system": lambda url: body(system=[{"type": "image", "source": {"type": "url", "url": url}}]),
    "embeddings chat": lambda url: {"messages": [{"role": "user", "content": [{"image_url": {"url": url}}]}]},
    "embeddings input": lambda url: {"input": [{"text": "a"}, {"image": url}]},
    "embeddings parts": lambda url: {"input": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]},
    "llama.cpp prompt": lambda url: {"prompt": {"prompt_string": "<__media__>", "multimodal_data": [url]}},
    "rerank query": lambda url: {"query": {"content": [{"type": "image_url", "image_url": {"url": url}}]}},
    "rerank documents": lambda url: {"documents": [{"content": [{"type": "image_url", "image_url": url}]}]},
    "score": lambda url: {"text_1": "a", "data_2": {"content": [{"type": "image_url", "image_url": {"url": url}}]}},
    "Cohere's embed": lambda url: {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_media_from_elsewhere_is_refused_in_every_shape_and_data_passes(shape: Callable[[str], object]) -> None:
    said = refusal(shape(EVIL))
    assert (said.status, said.code) == (400, "unsupported_parameter")
    assert "MEDIA_HOSTS" in said.message
    assert EVIL not in said.message
    inline = shape("data:image/png;base64,QQ==")
    assert json.loads(checked(inline).whole()) == inline
    assert checked(shape("https://img.example.org/a.png"), media_hosts=("img.example.org",))


def test_the_place_of_refused_media_is_named() -> None:
    assert refusal(SHAPES["chat image"](EVIL)).param == "messages.0.content.1.image_url.url"


@pytest.mark.parametrize(
    "url",
    [
        "http://good.org/a",
        "https://evil.org/a",
        "https://good.org@evil.org/",
        "https://evil.org\\@good.org/",
        "https://good.org\\.evil.org/",
        "https://good.org:8443/",
        "https://good.org:443@evil.org/",
        "https://good.org.evil.org/",
        "https://notgood.org/",
        "https://sub.good.org/",
        "https://good.org./",
        "https://good。org/",
        "https://ɢood.org/",
        "https://good.org\t/",
        "https://good.org\n.evil.org/",
        "https://good.org/a b",
        " https://good.org/a",
        "https:good.org",
        "https:/good.org",
        "https:///good.org",
        "//good.org/a",
        "https://",
        "https://[::1]/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://good%2eorg/",
        "https://évil.org/",
        "ftp://good.org/",
        "file:///etc/passwd",
        "gopher://good.org/",
        "javascript:alert(1)",
        "blob:https://good.org/1",
        "dаta:text/plain,cyrillic",
        " data:image/png;base64,QQ==",
        "/etc/passwd",
        "",
    ],
)
def test_no_spelling_of_another_host_passes_for_a_listed_one(url: str) -> None:
    assert refusal(SHAPES["chat image"](url), media_hosts=("good.org",)).code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://good.org", ("good.org",)),
        ("HTTPS://Good.ORG/a?b=c#d@e", ("good.org",)),
        ("https://good.org:443/a", ("good.org",)),
        ("https://good.org:8443/a", ("good.org:8443",)),
        ("https://cdn.good.org/a", ("x.org", "*.good.org")),
        ("https://a.b.good.org/a", ("*.good.org",)),
        ("https://10.0.0.7/a", ("10.0.0.7",)),
        ("DATA:image/png;base64,QQ==", ()),
    ],
)
def test_a_listed_host_passes(url: str, hosts: tuple[str, ...]) -> None:
    assert checked(SHAPES["chat image"](url), media_hosts=hosts)


def test_a_wildcard_lets_in_neither_its_own_apex_nor_addresses() -> None:
    assert refusal(SHAPES["chat image"]("https://good.org/"), media_hosts=("*.good.org",))
    assert refusal(SHAPES["chat image"]("https://10.0.0.1/"), media_hosts=("*.1", "*.0.1"))


@pytest.mark.parametrize(
    "document",
    [
        body(tools=[{"function": {"parameters": {"properties": {"image_url": {"type": "string", "url": EVIL}}}}}]),
        body(messages=[{"role": "user", "content": f"see {EVIL}"}]),
        body(messages=[{"role": "user", "content": [{"type": "text", "text": EVIL}]}]),
        body(
            messages=[
                {"role": "assistant", "content": [{"type": "tool_use", "name": "get", "input": {"image_url": EVIL}}]},
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": EVIL}}]},
            ]
        ),
        body(messages=[{"role": "user", "content": [{"type": "search_result", "source": EVIL, "title": "t"}]}]),
        body(messages=[{"role": "assistant", "audio": {"id": "audio_1"}}]),
        chat_with({"type": "input_audio", "input_audio": {"data": "/9j/QQ==", "format": "wav"}}),
        chat_with({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}}),
        {"input": [[1, 2, 3], [4]]},
        {"input": ["text", "https://example.com"]},
        {"input": [{"type": "input_image", "file_id": "file-1"}]},
    ],
    ids=lambda document: json.dumps(document)[-50:],
)
def test_text_tools_and_citations_are_not_media(document: dict[str, object]) -> None:
    assert json.loads(checked(document).whole()) == document


# -- images that are fetched ---------------------------------------------------------------------------------------

PICTURE = "https://img.example.org/a.png"
FETCHED = (
    "chat image",
    "chat image, short",
    "chat image, no type",
    "tool result",
    "responses image",
    "responses tool",
    "responses computer",
    "messages image",
    "messages tool result",
    "messages nested document",
    "messages system",
    "embeddings chat",
    "embeddings parts",
    "rerank query",
    "rerank documents",
    "score",
    "Cohere's embed",
)
"""Shapes in which an image of another host is fetched; what is not here is not known to be an image."""


def filled(result: Checked, data: dict[str, str]) -> object:
    """The body with what was fetched in its gaps, as `checker.py` sends it; by URL, in base64."""
    put = [(len(result.before), result.name)]
    for gap in result.gaps:
        text = data[result.wanted[gap.image].url]
        whole = {Fill.URL: f"data:image/png;base64,{text}", Fill.TYPE: "image/png", Fill.DATA: text}[gap.fill]
        put.append((gap.at, whole.encode()))
    held = result.before + result.after
    for place, piece in sorted(put, key=lambda each: each[0], reverse=True):
        held = held[:place] + piece + held[place:]
    return json.loads(held)


@pytest.mark.parametrize("name", SHAPES)
def test_images_of_other_hosts_are_wanted_where_they_are_images(name: str) -> None:
    document = SHAPES[name](PICTURE)
    if name not in FETCHED:
        assert refusal(document, media_fetch=True).code == "unsupported_parameter"
        return
    result = checked(document, media_fetch=True)
    (wanted,) = result.wanted
    assert (wanted.url, wanted.uses) == (PICTURE, 1)
    assert wanted.place == refusal(document).param
    inline = SHAPES[name]("data:image/png;base64,QQ==")
    if any(gap.fill is Fill.DATA for gap in result.gaps):
        inline = json.loads(
            json.dumps(SHAPES[name](PICTURE)).replace(
                f'{{"type": "url", "url": "{PICTURE}"}}',
                '{"type": "base64", "media_type": "image/png", "data": "QQ=="}',
            )
        )
    assert filled(result, {PICTURE: "QQ=="}) == inline


@pytest.mark.parametrize(
    "url",
    [
        EVIL,
        "http://img.example.org/a.png",
        "file:///etc/passwd",
        "ftp://img.example.org/a",
        "https://user@img.example.org/a",
        "https://img.example.org\\@evil.org/",
        "https://[::1]/a",
        "https://img.example.org/ a",
        "//img.example.org/a",
        "https://img.example.org/" + "x" * 2048,
        "",
    ],
)
def test_what_is_not_plainly_https_is_refused_also_when_images_are_fetched(url: str) -> None:
    said = refusal(SHAPES["chat image"](url), media_fetch=True)
    assert said.code == "unsupported_parameter"
    assert "MEDIA_HOSTS" in said.message and "MEDIA_FETCH" in said.message


def test_a_refusal_names_the_host_and_nothing_more_of_the_url() -> None:
    said = refusal(SHAPES["chat video"]("https://video.example.org/secret?token=1"), media_fetch=True)
    assert "from video.example.org" in said.message
    assert "secret" not in said.message and "token" not in said.message


def test_listed_hosts_and_inline_images_are_left_to_the_engine() -> None:
    result = checked(SHAPES["chat image"](PICTURE), media_fetch=True, media_hosts=("img.example.org",))
    assert not result.wanted
    assert PICTURE in result.whole().decode()
    assert not checked(SHAPES["chat image"]("data:image/png;base64,QQ=="), media_fetch=True).wanted


def test_a_picture_that_stands_in_several_places_is_fetched_once() -> None:
    part, other = (
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in (PICTURE, PICTURE + "2")
    )
    document = {
        "messages": [{"content": [part, other]}, {"content": [part]}],
        "model": "mä",
        "input": [{"content": [part]}],
    }
    result = checked(document, media_fetch=True)
    assert [(wanted.url, wanted.uses, wanted.place) for wanted in result.wanted] == [
        (PICTURE, 3, "messages.0.content.0.image_url.url"),
        (PICTURE + "2", 1, "messages.0.content.1.image_url.url"),
    ]
    as_text = json.dumps(document).replace(f'"{PICTURE}2"', '"data:image/png;base64,QkI="')
    expected = json.loads(as_text.replace(f'"{PICTURE}"', '"data:image/png;base64,QUE="'))
    assert filled(result, {PICTURE: "QUE=", PICTURE + "2": "QkI="}) == expected


def test_a_body_with_gaps_cannot_be_sent_by_mistake() -> None:
    with pytest.raises(RuntimeError, match="not fetched"):
        checked(SHAPES["chat image"](PICTURE), media_fetch=True).whole()


def test_images_beyond_the_limit_are_refused() -> None:
    def many(count: int, different: bool) -> dict[str, object]:
        urls = (f"{PICTURE}{n if different else ''}" for n in range(count))
        return body(messages=[{"content": [{"image_url": {"url": url}} for url in urls]}])

    assert len(checked(many(IMAGES_MAX, True), media_fetch=True).wanted) == IMAGES_MAX
    assert len(checked(many(USES_MAX, False), media_fetch=True).gaps) == USES_MAX
    for document in (many(IMAGES_MAX + 1, True), many(USES_MAX + 1, False)):
        assert "At most 32 different images" in refusal(document, media_fetch=True).message


@given(
    st.recursive(
        st.text(alphabet=st.characters(codec=None), max_size=12) | st.none() | st.integers(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ),
    st.permutations(["model", "messages", "pad"]),
)
def test_gaps_are_exact_whatever_stands_around_them(anything: object, order: list[str]) -> None:
    """Lone surrogates of a caller's are repaired first, so that none is taken for a mark."""
    parts = [{"type": "image_url", "image_url": {"url": PICTURE}}, {"type": "text", "text": "\ud800 \U0001f600"}]
    messages = [{"role": "user", "content": parts}, {"role": "user", "content": [{"image_url": PICTURE}]}]
    document = {key: {"model": "m", "messages": messages, "pad": {"x": anything}}[key] for key in order}
    result = checked(document, media_fetch=True)
    plain = checked(json.loads(json.dumps(document).replace(PICTURE, "data:image/png;base64,QQ==")))
    assert filled(result, {PICTURE: "QQ=="}) == json.loads(plain.whole())


# -- model name ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw", [b'{"model":"m"}', b'{"model":"m","a":1}', b'{"a":1,"model":"m"}', b'{"a":1,"model":null,"b":{"model":"z"}}']
)
def test_another_model_name_takes_its_place_in_order(raw: bytes) -> None:
    result = checked(raw)
    assert result.whole() == raw
    renamed = result.with_model('served "ä"')
    assert (
        renamed.whole()
        == json.dumps(json.loads(raw) | {"model": 'served "ä"'}, ensure_ascii=False)
        .replace(": ", ":")
        .replace(", ", ",")
        .encode()
    )
    assert renamed.size == len(renamed.whole())
    assert renamed.facts.model == 'served "ä"'


def test_a_missing_model_name_can_be_given() -> None:
    assert checked(b'{"a":1}').whole() == b'{"a":1}'
    assert checked(b'{"a":1}').with_model("m").whole() == b'{"model":"m","a":1}'


# -- head ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds",
    [
        ["application/json"],
        ["Application/JSON; charset=UTF-8"],
        ['application/json;charset="utf-8"'],
        ["application/json", "application/json"],
    ],
)
def test_json_is_accepted_in_utf8(kinds: list[str]) -> None:
    check_type(kinds, ["identity"])


@pytest.mark.parametrize(
    ("kinds", "encodings"),
    [
        ([], []),
        ([""], []),
        (["text/plain"], []),
        (["application/x-www-form-urlencoded"], []),
        (["application/vnd.api+json"], []),
        (["application/json; charset=utf-16"], []),
        (["application/json", "text/plain"], []),
        (["application/json, text/plain"], []),
        (["application/json"], ["gzip"]),
        (["application/json"], ["identity", "br"]),
        (["application/json"], ["identity, gzip"]),
        (["multipart/form-data; boundary=x"], []),
    ],
)
def test_any_other_type_or_compression_is_415(kinds: list[str], encodings: list[str]) -> None:
    with pytest.raises(Refused) as caught:
        check_type(kinds, encodings)
    assert (caught.value.refusal.status, caught.value.refusal.closes) == (415, True)


def test_audio_routes_take_multipart_with_a_boundary() -> None:
    check_type(["multipart/form-data; boundary=abc"], multipart=True)
    for kind in ("multipart/form-data", "multipart/mixed; boundary=abc", "application/json"):
        with pytest.raises(Refused):
            check_type([kind], multipart=True)


# -- cost ----------------------------------------------------------------------------------------------------------


def test_large_or_crowded_bodies_are_not_checked_on_the_loop() -> None:
    assert is_cheap(b'{"messages":[{"role":"user","content":"' + b"words " * 10_000 + b'"}]}')
    assert not is_cheap(b" " * (256 * 1024 + 1))
    assert not is_cheap(b'{"input":[' + b"[]," * 5_000 + b"[]]}")


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0123null.e-', max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_a_refusal(raw: bytes) -> None:
    try:
        json.loads(check(raw, CHAT, Rules()).whole())
    except Refused as refused:
        assert refused.refusal.status == 400


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 0),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 5, "max_tokens": 7}, 5),
        ({"max_output_tokens": 9}, 9),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": True}, 0),
        ({"max_tokens": "many"}, 0),
        ({"max_tokens": -1}, 0),
    ],
)
def test_the_most_tokens_that_were_asked_for_are_known(fields: dict[str, object], most: int) -> None:
    """Of all answers together; what is odd is the engine's to refuse."""
    body = json.dumps({"messages": [], **fields}).encode()
    assert check(body, "/v1/chat/completions", Rules()).facts.max_tokens == most


# -- what the engine is asked for beyond it ------------------------------------------------------------------------

COUNTED = (CHAT, "/v1/completions")
ASKED = {"include_usage": True}


def sent(document: dict[str, object], route: str = CHAT, **rules: object) -> dict[str, object]:
    result: dict[str, object] = json.loads(checked(document, route, **rules).whole())
    return result


@pytest.mark.parametrize("route", COUNTED)
def test_a_stream_is_made_to_end_with_its_count_of_tokens(route: str) -> None:
    document = body(prompt="x", stream=True)
    result = checked(document, route, count_tokens=True)
    assert json.loads(result.whole()) == document | {"stream_options": ASKED}
    assert result.facts == checked(document, route).facts, "what the caller asked for stays known"
    assert not result.facts.include_usage


def test_what_a_caller_wants_of_a_stream_is_kept_beside_the_count() -> None:
    options = {"include_usage": False, "continuous_usage_stats": True}
    document = {"stream_options": options, **body(stream=True)}
    assert sent(document, count_tokens=True) == document | {"stream_options": options | ASKED}
    assert list(sent(document, count_tokens=True)) == list(document)
    assert sent(body(stream=True, stream_options=None), count_tokens=True)["stream_options"] == ASKED


@pytest.mark.parametrize(
    ("document", "route"),
    [
        (body(stream=True, stream_options=ASKED), CHAT),
        (body(stream=True, stream_options="odd"), CHAT),
        (body(stream=True, stream_options=[]), CHAT),
        (body(), CHAT),
        (body(stream=False), CHAT),
        ({"input": "x", "stream": True}, "/v1/responses"),
        (body(stream=True), "/v1/messages"),
        ({"input": "x"}, "/v1/embeddings"),
        ({"stream": True}, "/v1/tokenize"),
    ],
    ids=str,
)
def test_the_count_is_asked_for_in_nothing_but_streams_that_lack_it(document: dict[str, object], route: str) -> None:
    """A value of another kind is the engine's to refuse."""
    assert sent(document, route, count_tokens=True) == document
    assert checked(document, route, count_tokens=True).whole() == checked(document, route).whole()


@pytest.mark.parametrize("document", [body(), body(stream=False), body(stream=None, stream_options=None)], ids=str)
@pytest.mark.parametrize("route", COUNTED)
def test_a_stream_is_asked_for_where_the_caller_wants_none(document: dict[str, object], route: str) -> None:
    result = checked(document, route, gather=True)
    assert json.loads(result.whole()) == document | {"stream": True, "stream_options": ASKED}
    assert (result.facts.gathered, result.facts.stream, result.facts.include_usage) == (True, False, False)


@pytest.mark.parametrize(
    ("fields", "route"),
    [
        ({"n": 3}, CHAT),
        ({"tools": [{"type": "function"}], "logprobs": True, "top_logprobs": 5}, CHAT),
        ({"echo": False, "modalities": None, "best_of": 1}, CHAT),
        ({"prompt": "x", "logprobs": 3, "n": 2, "best_of": 2}, "/v1/completions"),
        ({"prompt": ["x"]}, "/v1/completions"),
        ({"prompt": [1, 2, 3]}, "/v1/completions"),
        ({"prompt": [[1, 2, 3]]}, "/v1/completions"),
    ],
    ids=str,
)
def test_an_answer_that_can_be_put_together_is_gathered(fields: dict[str, object], route: str) -> None:
    assert checked(body(**fields), route, gather=True).facts.gathered


@pytest.mark.parametrize(
    ("fields", "route"),
    [
        ({"stream": True}, CHAT),
        ({"stream": True, "stream_options": ASKED}, CHAT),
        ({"stream_options": ASKED}, CHAT),
        ({"messages": "none"}, CHAT),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, CHAT),
        ({"prompt_logprobs": 0}, CHAT),
        ({"prompt_logprobs": 1}, CHAT),
        ({"use_beam_search": True}, CHAT),
        ({"return_token_ids": True}, CHAT),
        ({"prompt": "x", "echo": True}, "/v1/completions"),
        ({"prompt": "x", "best_of": 2}, "/v1/completions"),
        ({"prompt": ["x", "y"]}, "/v1/completions"),
        ({"prompt": [[1], [2]]}, "/v1/completions"),
        ({"input": "x"}, "/v1/responses"),
        ({}, "/v1/messages"),
        ({"input": "x"}, "/v1/embeddings"),
        ({"prompt": "x"}, "/v1/rerank"),
        ({"query": "x"}, "/tokenize"),
    ],
    ids=str,
)
def test_an_answer_that_cannot_be_put_together_is_left_alone(fields: dict[str, object], route: str) -> None:
    result = checked(body(**fields), route, gather=True)
    assert not result.facts.gathered
    assert json.loads(result.whole()) == body(**fields)


@pytest.mark.parametrize("first", ["model", "messages", "stream", "stream_options"])
@pytest.mark.parametrize("with_model", [True, False])
def test_a_body_that_was_changed_takes_another_model_name(first: str, with_model: bool) -> None:
    document = {"messages": [], "model": "m", "stream": False, "stream_options": None}
    document = {first: document[first]} | document
    if not with_model:
        del document["model"]
    wanted = document | {"stream": True, "stream_options": ASKED}
    for given_fields in (document, {key: document[key] for key in document if not key.startswith("stream")}):
        result = checked(given_fields, gather=True)
        assert json.loads(result.whole()) == wanted
        assert json.loads(result.with_model("other").whole()) == wanted | {"model": "other"}
    assert json.loads(checked({"messages": []}, gather=True).with_model("m").whole())["model"] == "m"


def test_a_body_with_images_to_fetch_is_changed_as_any_other() -> None:
    document = {**SHAPES["chat image"](PICTURE), "stream": False}  # type: ignore[dict-item]
    result = checked(document, media_fetch=True, gather=True)
    inline = {**SHAPES["chat image"]("data:image/png;base64,QQ=="), "stream": True}  # type: ignore[dict-item]
    assert filled(result, {PICTURE: "QQ=="}) == inline | {"stream_options": ASKED}
    assert result.facts.gathered
    bare = {**SHAPES["chat image"](PICTURE), "stream": True}  # type: ignore[dict-item]
    counted = checked(bare, media_fetch=True, count_tokens=True)
    assert filled(counted, {PICTURE: "QQ=="}) == inline | {"stream_options": ASKED}


# -- the short form of a chat ----------------------------------------------------------------------------------------


def test_a_prompt_becomes_the_one_message_of_a_chat_and_the_rest_stays() -> None:
    said = sent({"temperature": 0.5, "prompt": 'Hé \u2028 "x"', "stream": True}, "/chat")
    assert said == {"temperature": 0.5, "messages": [{"role": "user", "content": 'Hé \u2028 "x"'}], "stream": True}
    assert list(said) == ["temperature", "messages", "stream"]
    facts = checked({"prompt": "x", "stream": True, "n": 2}, "/chat").facts
    assert (facts.stream, facts.choices, facts.lacks) == (True, 2, "")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prompt":"x","model":"m"}',
        b'{ "model" : "m", "prompt" : "x" }',
        b'{"prompt":"x","model":"m","messages":null}',
        b'{"prompt":"\\u0078","model":"m"}',
    ],
)
def test_a_prompt_may_stand_anywhere_and_another_model_costs_nothing(raw: bytes) -> None:
    said = json.loads(checked(raw, "/chat").with_model("other").whole())
    assert said == {"model": "other", "messages": [{"role": "user", "content": "x"}]}


def test_half_an_emoji_in_a_prompt_is_mended_as_elsewhere() -> None:
    result = checked(b'{"prompt":"a\\ud83d"}', "/chat")
    assert json.loads(result.whole()) == {"messages": [{"role": "user", "content": "a\ufffd"}]}
    assert result.facts.repaired == 1


def test_a_whole_chat_body_passes_as_it_came() -> None:
    document = body(stream=True, tools=[])
    assert sent(document, "/chat") == document
    assert checked(document, "/chat").facts == checked(document).facts


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"model": "m"}, "messages"),
        ({"prompt": None, "messages": "hi"}, "messages"),
        ({"prompt": ["a", "b"]}, "must be a text"),
        ({"prompt": {"role": "user"}}, "must be a text"),
        ({"prompt": " "}, "must be a text"),
        (body(prompt="x"), "not both"),
    ],
)
def test_what_is_neither_a_prompt_nor_messages_is_refused(document: dict[str, object], said: str) -> None:
    with pytest.raises(Refused) as caught:
        checked(document, "/chat")
    refused = caught.value.refusal
    assert (refused.status, refused.code, refused.param) == (
        400,
        "invalid_request",
        "prompt",
    ) and said in refused.message


def test_the_short_form_is_checked_by_the_rules_of_a_chat() -> None:
    with pytest.raises(Refused, match="prompt_embeds"):
        checked({"prompt": "x", "prompt_embeds": "AAAA"}, "/chat")
    said = sent({"prompt": "x"}, "/chat", gather=True, output_tokens=7)
    assert said == {
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 7,
        "stream": True,
        "stream_options": ASKED,
    }


# -- MAX_OUTPUT_TOKENS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "field"),
    [
        (CHAT, "max_tokens"),
        ("/v1/completions", "max_tokens"),
        ("/v1/messages", "max_tokens"),
        ("/v1/responses", "max_output_tokens"),
    ],
)
def test_an_answer_without_a_limit_is_given_the_operators(route: str, field: str) -> None:
    document = body(prompt="x", input="x")
    assert sent(document, route, output_tokens=500) == document | {field: 500}
    assert sent(document | {field: None}, route, output_tokens=500) == document | {field: 500}
    assert sent(document | {field: 20}, route, output_tokens=500) == document | {field: 20}
    assert sent(document, route) == document, "without the setting nothing is added"


@pytest.mark.parametrize("route", ["/v1/embeddings", "/v1/rerank", "/v1/messages/count_tokens", "/tokenize"])
def test_routes_that_know_no_such_field_are_sent_none(route: str) -> None:
    document = body(input="x")
    assert sent(document, route, output_tokens=500) == document


@pytest.mark.parametrize("route", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/completion"])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"])
@pytest.mark.parametrize("value", [501, 10**30, 0, -1, 1e9, "501", True])
def test_more_than_the_operators_limit_is_refused_by_whichever_name(field: str, value: object, route: str) -> None:
    """0 and -1 are "no limit" to some engines, and a text is none at all to llama-server."""
    with pytest.raises(Refused) as caught:
        checked(body(**{field: value}), route, output_tokens=500)
    refused = caught.value.refusal
    assert (refused.status, refused.code, refused.param) == (400, "invalid_request", field)
    assert type(value) is not int or "MAX_OUTPUT_TOKENS" in refused.message


def test_a_limit_under_another_name_is_told_under_the_one_that_every_engine_knows() -> None:
    assert sent(body(max_completion_tokens=20), output_tokens=500)["max_tokens"] == 20
    assert sent(body(n_predict=20), output_tokens=500)["max_tokens"] == 20
    assert sent(body(max_completion_tokens=20, max_tokens=30), output_tokens=500) == body(
        max_completion_tokens=20, max_tokens=30
    )


def test_what_the_operator_adds_is_nothing_that_the_caller_asked_for() -> None:
    """A key's tokens per minute are reserved by what a request asks for: else one that says nothing would be refused
    wherever MAX_OUTPUT_TOKENS is more than the key has."""
    assert checked(body(), output_tokens=500).facts.max_tokens == 0
    assert checked(body(max_tokens=20, n=2), output_tokens=500).facts.max_tokens == 40


def test_the_rules_travel_to_the_helper_with_the_limit() -> None:
    assert Rules.from_wire(json.loads(json.dumps(Rules(output_tokens=500).to_wire()))) == Rules(output_tokens=500)
