"""MODEL, from its text to a whole model on the disk: found there, or brought from a small Hub by the real library."""

import asyncio
import fcntl
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.providers.base import Gone, Loading
from gateway.providers.local.models import hub_download
from gateway.providers.local.models.model_error import FOR_CALLERS
from gateway.providers.local.models.models import (
    AS_ON_THE_HUB,
    DAMAGED_HERE,
    Download,
    ModelError,
    Places,
    examine,
    find,
    name_of,
    preview,
    resolve,
)
from tests.support.hub import COMMIT, FakeHub, etag_of
from tests.support.model_bytes import gguf_bytes, transformers_files

REPO = "org/Tiny-GGUF"
WHOLE = gguf_bytes(rows=200)
BIG = gguf_bytes(rows=16_000)  # 4 MB: several reads of a download


@pytest.fixture
def places(tmp_path) -> Places:
    (tmp_path / "data/models").mkdir(parents=True)
    return Places(tmp_path / "data/models", (tmp_path / "cache",), working_dir=tmp_path / "work")


class Asked:
    """`resolve` with the small Hub in its environment, and what was told meanwhile."""

    def __init__(self, hub: FakeHub, places: Places, home: Path) -> None:
        self.places = places
        self.progress: list[Download] = []
        self.environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "not ours to use"}

    async def __call__(self, spec: str, **more):
        more = {"places": self.places, "environ": self.environ, "on_progress": self.progress.append, **more}
        return await resolve(spec, **more)

    async def trouble(self, spec: str, **more) -> ModelError:
        with pytest.raises(ModelError) as caught:
            await self(spec, **more)
        return caught.value


@pytest.fixture
def ask(hub, places, tmp_path) -> Asked:
    return Asked(hub, places, tmp_path / "home")


def put_in_cache(cache: Path, repo: str, files: dict[str, bytes], commit: str = "c" * 40) -> Path:
    folder = cache / f"models--{repo.replace('/', '--')}"
    for name, content in files.items():
        blob = folder / "blobs" / etag_of(content)
        pointer = folder / "snapshots" / commit / name
        for path in (blob, pointer):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


# On this machine's disk


async def test_a_name_means_a_file_or_folder_under_the_models_folder(ask, places):
    (places.models_dir / "Tiny.gguf").write_bytes(WHOLE)
    (places.models_dir / "org/Other").mkdir(parents=True)
    (places.models_dir / "org/Other/a-Q8_0.gguf").write_bytes(WHOLE)
    assert (await ask("Tiny.gguf")).path == places.models_dir / "Tiny.gguf"
    assert (await ask("org/Other:Q8_0")).name == "a-Q8_0"


async def test_something_on_the_disk_wins_over_the_hub_and_asks_it_nothing(ask, hub, places):
    hub.add(REPO, {"Tiny-Q8_0.gguf": WHOLE})
    folder = places.models_dir / REPO
    folder.mkdir(parents=True)
    (folder / "mine.gguf").write_bytes(WHOLE)
    assert (await ask(REPO)).path == folder / "mine.gguf"
    assert hub.seen == []


async def test_paths_count_from_the_working_folder_and_home(ask, places, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/w.gguf").write_bytes(WHOLE)
    assert (await ask("./w.gguf")).name == "w"
    at_home = Places(places.models_dir, home=tmp_path)
    assert (await ask("~/work/w.gguf", places=at_home)).name == "w"


async def test_a_name_that_is_not_there_lists_near_misses(ask, places):
    (places.models_dir / "Tiny.gguf").write_bytes(WHOLE)
    error = await ask.trouble("tinny.gguf")
    assert error.kind == "missing"
    assert "Did you mean Tiny.gguf?" in error.sentence
    assert "Ollama" in (await ask.trouble("llama3.1:8b")).sentence
    assert (await ask.trouble("org/name:bad tag")).kind == "name"


async def test_the_hubs_caches_are_looked_into_first_and_no_network_is_needed(ask, hub, places):
    put_in_cache(places.hub_caches[0], REPO, {"sub/Tiny-Q4_K_M.gguf": WHOLE, "Tiny-Q8_0.gguf": WHOLE})
    model = await ask(REPO)
    assert model.path.name == "Tiny-Q4_K_M.gguf"
    assert (model.name, model.revision) == (REPO, "c" * 40)
    assert (await ask(f"{REPO}:Q8_0@main")).path.name == "Tiny-Q8_0.gguf"
    assert hub.seen == []


def test_the_places_are_the_usual_cache_then_runpods_then_base_path(tmp_path):
    places = Places.of(tmp_path, base_path=Path("/base"), environ={"HF_HOME": "/h"})
    wanted = ["/h/hub", "/runpod-volume/huggingface-cache/hub", "/base/huggingface-cache/hub"]
    assert [str(c) for c in places.hub_caches[:3]] == wanted


def test_find_says_what_is_here_without_asking_anybody(places):
    assert find(REPO, places=places) is None
    put_in_cache(places.hub_caches[0], REPO, {"a.gguf": WHOLE})
    assert find(REPO, places=places).name == REPO


async def test_an_incomplete_cache_is_passed_over(ask, hub, places):
    snapshot = put_in_cache(places.hub_caches[0], REPO, {"Tiny.gguf": WHOLE[:-500]})
    hub.add(REPO, {"Tiny.gguf": WHOLE})
    model = await ask(REPO)
    assert model.path.read_bytes() == WHOLE
    assert snapshot not in model.path.parents


# From the Hub


async def test_a_download_lands_on_the_volume_and_is_found_there_the_next_time(ask, hub, places):
    hub.add(REPO, {"Tiny-Q4_K_M.gguf": BIG, "Tiny-Q8_0.gguf": WHOLE, "README.md": b"#"})
    model = await ask(REPO)
    assert model.path.read_bytes() == BIG
    assert places.own_cache in model.path.parents
    assert (model.revision, model.name) == (COMMIT, REPO)
    assert [s.path for s in hub.downloads()] == [f"/cdn/{REPO}/Tiny-Q4_K_M.gguf"]
    assert (ask.progress[-1].done, ask.progress[-1].total) == (len(BIG), len(BIG))
    hub.seen.clear()
    assert (await ask(REPO)).path == model.path
    assert hub.seen == []


async def test_the_library_reads_what_was_downloaded_as_its_own_cache(ask, hub, places):
    hub.add(REPO, {"d/Tiny.gguf": WHOLE})
    model = await ask(REPO)
    from huggingface_hub import try_to_load_from_cache

    assert try_to_load_from_cache(REPO, "d/Tiny.gguf", cache_dir=places.own_cache) == str(model.path)


async def test_a_revision_a_quant_and_a_file_reach_the_hub(ask, hub):
    repo = hub.add(REPO, {"a-Q4_0.gguf": WHOLE, "s/b.gguf": gguf_bytes(name="b", rows=300)})
    repo.commits["dev"] = "d" * 40
    assert (await ask(f"{REPO}@dev:Q4_0")).revision == "d" * 40
    assert (await ask(f"https://huggingface.co/{REPO}/blob/main/s/b.gguf")).path.name == "b.gguf"
    assert (await ask(f"{REPO}:b.gguf@{COMMIT}")).revision == COMMIT


async def test_shards_come_whole_and_the_first_is_the_path(ask, hub):
    shards = {f"Q8/b-Q8_0-0000{n + 1}-of-00003.gguf": gguf_bytes(split=(n, 3), rows=200 + n) for n in range(3)}
    hub.add(REPO, {**shards, "mmproj.gguf": WHOLE})
    model = await ask(f"{REPO}:Q8_0")
    assert model.path.name == "b-Q8_0-00001-of-00003.gguf"
    assert model.size == sum(map(len, shards.values()))
    assert len(hub.downloads()) == 3
    assert ask.progress[-1].done == model.size


async def test_a_safetensors_repository_comes_with_what_stands_beside_its_weights(ask, hub):
    hub.add("org/Tiny", transformers_files())
    model = await ask("org/Tiny", wants="safetensors")
    assert model.format == "safetensors"
    assert sorted(p.name for p in model.path.iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


async def test_what_could_not_be_used_here_is_refused_before_its_weights_are_fetched(ask, hub):
    hub.add("org/Tiny", transformers_files())
    asked = []

    async def admit(facts):
        asked.append(facts)
        raise ModelError("fit", "Too large.")

    trouble = await ask.trouble("org/Tiny", wants="safetensors", admit=admit)
    assert (trouble.kind, trouble.lasting) == ("fit", True)
    fetched = [s.path.rsplit("/", 1)[-1] for s in hub.seen if "/resolve/" in s.path]
    assert set(fetched) == {"config.json"}
    (facts,) = asked
    sizes = [len(content) for name, content in transformers_files().items() if name.endswith(".safetensors")]
    assert (facts.name, facts.format, facts.size) == ("org/Tiny", "safetensors", sum(sizes))
    assert facts.shape.context == 4096


async def test_what_can_be_used_here_is_fetched(ask, hub):
    hub.add("org/Tiny", transformers_files())
    asked = []

    async def admit(facts):
        asked.append(facts)

    model = await ask("org/Tiny", wants="safetensors", admit=admit)
    assert len(asked) == 1 and (model.path / "model-00002-of-00002.safetensors").exists()
    await ask("org/Tiny", wants="safetensors", admit=admit)
    assert len(asked) == 1  # it is here: nothing is downloaded


async def test_a_gguf_on_the_hub_is_known_by_its_size(ask, hub, places):
    hub.add(REPO, {"tiny-Q4_K_M.gguf": WHOLE})
    facts = await preview(REPO, places=places, environ=ask.environ)
    assert (facts.name, facts.format, facts.size) == (REPO, "gguf", len(WHOLE)) and not facts.shape.is_known
    assert not [s for s in hub.seen if "/resolve/" in s.path]
    (places.models_dir / "here.gguf").write_bytes(WHOLE)
    facts = await preview("here.gguf", places=places)
    assert (facts.name, facts.size, facts.shape.context) == ("here", len(WHOLE), 128)


async def test_weights_come_after_the_small_files_beside_them(ask, hub):
    hub.add("org/Tiny", transformers_files())
    await ask("org/Tiny", wants="safetensors")
    fetched = [s.path.rsplit("/", 1)[-1] for s in hub.seen if "/resolve/" in s.path]
    assert all(name.endswith(".safetensors") for name in fetched[-2:])
    assert not any(name.endswith(".safetensors") for name in fetched[:-2])


async def test_a_cut_download_goes_on_from_the_byte_where_it_was_cut(ask, hub):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.cut_after = [2 << 20, 1 << 20]
    model = await ask(REPO)
    assert model.path.read_bytes() == BIG
    ranges = [s.range for s in hub.downloads()]
    assert ranges[0] is None
    starts = [int(r.removeprefix("bytes=").removesuffix("-")) for r in ranges[1:]]
    assert starts == sorted(starts) and starts[-1] >= 2 << 20


async def test_a_download_that_gave_up_is_resumed_by_the_next_process(ask, hub, places):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.cut_after = [3 << 20] + [0] * 20
    ended = asyncio.create_task(ask(REPO))
    while not any(p.done >= 3 << 20 for p in ask.progress):
        await asyncio.sleep(0.02)
    ended.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended
    partial = next(places.own_cache.rglob("*.partial"))
    assert partial.read_bytes() == BIG[: 3 << 20]
    hub.cut_after.clear()
    hub.seen.clear()
    assert (await ask(REPO)).path.read_bytes() == BIG
    assert [s.range for s in hub.downloads()] == [f"bytes={3 << 20}-"]
    assert not list(places.own_cache.rglob("*.partial"))


async def test_a_server_without_ranges_costs_bytes_but_not_the_file(ask, hub):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.cut_after, hub.ranges = [2 << 20], False
    assert (await ask(REPO)).path.read_bytes() == BIG


async def test_damaged_bytes_are_found_by_the_checksum_and_fetched_again(ask, hub):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.spoil = ["Tiny.gguf"]
    assert (await ask(REPO)).path.read_bytes() == BIG
    assert len(hub.downloads()) == 2


async def test_bytes_that_are_wrong_twice_are_not_kept(ask, hub, places):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.spoil = ["Tiny.gguf", "Tiny.gguf"]
    error = await ask.trouble(REPO)
    assert "wrong checksum" in error.sentence and not error.lasting
    assert not list(places.own_cache.rglob("*.partial"))


async def test_an_empty_file_beside_the_weights_is_no_trouble(ask, hub):
    hub.add("org/Tiny", {**transformers_files(), "added_tokens.json": b""})
    assert (await ask("org/Tiny")).format == "safetensors"


def children_of_this_process() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


async def until(condition, what: str) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"10 s, and not yet: {what}")


async def test_a_cancelled_download_ends_at_once_and_leaves_no_process(ask, hub):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.gate = asyncio.Event()
    before = children_of_this_process()
    task = asyncio.create_task(ask(REPO))
    await until(lambda: any(p.done for p in ask.progress), "progress")
    assert children_of_this_process() - before
    began = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() - began < 0.5
    assert not children_of_this_process() - before


async def test_the_child_ends_when_whoever_asked_is_killed(hub, tmp_path):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.gate = asyncio.Event()
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from gateway.providers.local.models.models import Places, resolve\n"
        f"asyncio.run(resolve({REPO!r}, places=Places(Path(sys.argv[1]))))"
    )
    root = Path(hub_download.__file__).parents[4]
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "PYTHONPATH": str(root)}
    asker = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environ)
    try:
        await until(lambda: hub.downloads(), "a download")
        child = int(Path(f"/proc/{asker.pid}/task/{asker.pid}/children").read_text().split()[0])
    finally:
        asker.send_signal(signal.SIGKILL)
        asker.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    await until(gone, "the child's end")


async def test_the_child_gets_the_token_in_its_environment_and_nothing_else_of_ours(ask, hub):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.accepted_keys.add("hf_secret")
    hub.gate = asyncio.Event()
    ask.environ |= {"API_KEY": "sk-ours", "RUNPOD_API_KEY": "rp", "PORT": "8000", "WAKEGATE_X": "1"}
    before = children_of_this_process()
    task = asyncio.create_task(ask(REPO, token="hf_secret"))
    await until(lambda: hub.downloads(), "a download")
    child = (children_of_this_process() - before).pop()
    environ = dict(e.split("=", 1) for e in Path(f"/proc/{child}/environ").read_text().split("\0") if e)
    assert environ["HF_TOKEN"] == "hf_secret"
    assert not environ.keys() & {"API_KEY", "RUNPOD_API_KEY", "PORT", "WAKEGATE_X"}
    assert "hf_secret" not in Path(f"/proc/{child}/cmdline").read_text()
    hub.gate.set()
    await task


async def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(ask, hub):
    hub.add(REPO, {"Tiny.gguf": BIG}, gated=True)
    hub.accepted_keys.add("hf_secret")
    hub.cut_after = [1 << 20]
    await ask(REPO, token="hf_secret")
    assert {s.key for s in hub.seen if "/cdn/" not in s.path} == {"hf_secret"}
    assert {s.key for s in hub.downloads()} == {None}
    assert all(s.host.startswith("localhost") for s in hub.downloads())


async def test_two_processes_that_want_the_same_model_download_it_once(ask, hub, places):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.gate = asyncio.Event()
    first = asyncio.create_task(ask(REPO))
    await until(lambda: hub.downloads(), "the first download")
    second_progress: list[Download] = []
    second = asyncio.create_task(ask(REPO, on_progress=second_progress.append))
    await until(
        lambda: any(p.waiting and p.done for p in second_progress), "the second one to see the first's progress"
    )
    hub.gate.set()
    assert (await first).path == (await second).path
    assert len(hub.downloads()) == 1


async def test_where_locks_do_nothing_two_writers_still_make_one_good_file(hub, tmp_path):
    """As on network file systems whose flock succeeds for everybody: each process has another lock file."""
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.cut_after = [1 << 20, 2 << 20, 1 << 19]
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hub; from pathlib import Path\n"
        "store = hub.Store(Path(sys.argv[2]), sys.argv[3], sys.argv[4])\n"
        "store.locks = Path(sys.argv[2]) / sys.argv[7]\n"
        "store.prepare()\n"
        "store.fetch_file('Tiny.gguf', int(sys.argv[5]), sys.argv[6], hub.Tally(0))\n"
    )
    room = str(Path(hub_download.__file__).parent)
    common = [sys.executable, "-c", program, room, str(tmp_path), REPO, COMMIT, str(len(BIG)), etag_of(BIG)]
    environ = {**os.environ, "HF_ENDPOINT": hub.url}
    writers = [await asyncio.create_subprocess_exec(*common, f"locks{n}", env=environ) for n in range(2)]
    assert [await w.wait() for w in writers] == [0, 0]
    assert next(tmp_path.rglob("Tiny.gguf")).read_bytes() == BIG
    assert len(hub.downloads()) > 2
    assert not list(tmp_path.rglob("*.partial"))


async def fetch_in_ranges(hub: FakeHub, cache: Path, range_size: int = 1 << 19) -> bytes:
    """BIG, as a process of its own fetches it in ranges of 512 KiB."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hub; from pathlib import Path\n"
        "store = hub.Store(Path(sys.argv[2]), sys.argv[3], sys.argv[4], range_size=int(sys.argv[7]))\n"
        "store.prepare(); tally = hub.Tally(int(sys.argv[5]))\n"
        "store.fetch_file('Tiny.gguf', int(sys.argv[5]), sys.argv[6], tally)\n"
        "assert tally.told()['done'] == int(sys.argv[5])\n"
    )
    room = str(Path(hub_download.__file__).parent)
    command = [sys.executable, "-c", program, room, str(cache), REPO, COMMIT, str(len(BIG)), etag_of(BIG)]
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf-ours"}
    child = await asyncio.create_subprocess_exec(*command, str(range_size), env=environ)
    assert await child.wait() == 0
    assert not list(cache.rglob("*.partial"))
    return next(cache.rglob("Tiny.gguf")).read_bytes()


def ranges_of(hub: FakeHub) -> list[tuple[int, int]]:
    """(begin, end) of each range that was asked for, in the order of the file."""
    asked = (seen.range.removeprefix("bytes=").split("-") for seen in hub.downloads() if seen.range)
    return sorted((int(begin), int(end) + 1) for begin, end in asked if end)


async def test_a_large_file_comes_in_ranges_and_only_once(hub, tmp_path):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.good_keys.add("hf-ours")
    assert await fetch_in_ranges(hub, tmp_path) == BIG
    ranges = ranges_of(hub)
    assert ranges[0][0] == 0 and ranges[-1][1] == len(BIG) and len(ranges) > 4
    assert all(one[1] == next_one[0] for one, next_one in itertools.pairwise(ranges))
    assert {seen.key for seen in hub.downloads()} == {None}, "where the Hub redirects to nobody is shown the key"
    asked_hub = [seen for seen in hub.seen if "/resolve/" in seen.path]
    assert len(asked_hub) < len(ranges), "the address that it redirects to is used again"


async def test_ranges_that_are_cut_are_gone_on_with(hub, tmp_path):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.good_keys.add("hf-ours")
    hub.cut_after = [1 << 18]  # closed, not reset: what was sent arrives
    assert await fetch_in_ranges(hub, tmp_path) == BIG
    asked = sum(end - begin for begin, end in ranges_of(hub))
    assert asked <= len(BIG) + 4 * (1 << 19), "only what was under way comes again"


async def test_ranges_go_on_behind_what_an_earlier_try_left(hub, tmp_path):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.good_keys.add("hf-ours")
    blobs = tmp_path / "models--org--Tiny-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag_of(BIG)}.partial").write_bytes(BIG[:100_000])
    assert await fetch_in_ranges(hub, tmp_path) == BIG
    assert ranges_of(hub)[0][0] == 100_000


async def test_a_signed_address_that_is_too_old_is_asked_for_again(hub, tmp_path):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.good_keys.add("hf-ours")
    hub.cdn_expires_after = 5
    assert await fetch_in_ranges(hub, tmp_path) == BIG
    assert len([seen for seen in hub.seen if "/resolve/" in seen.path]) > 1


async def test_a_server_that_knows_no_ranges_sends_the_whole_file(hub, tmp_path):
    hub.add(REPO, {"Tiny.gguf": BIG})
    hub.good_keys.add("hf-ours")
    hub.ranges = False
    assert await fetch_in_ranges(hub, tmp_path) == BIG


async def test_a_file_beyond_what_http_serves_is_left_to_the_library(hub, tmp_path):
    hub.add(REPO, {"Tiny.gguf": BIG})
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hub; from pathlib import Path\n"
        "store = hub.Store(Path(sys.argv[2]), sys.argv[3], sys.argv[4], http_limit=1000)\n"
        "store.prepare(); tally = hub.Tally(int(sys.argv[5]))\n"
        "store.fetch_file('Tiny.gguf', int(sys.argv[5]), sys.argv[6], tally)\n"
        "assert tally.told()['done'] == int(sys.argv[5])\n"
    )
    room = str(Path(hub_download.__file__).parent)
    command = [sys.executable, "-c", program, room, str(tmp_path), REPO, COMMIT, str(len(BIG)), etag_of(BIG)]
    environ = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    child = await asyncio.create_subprocess_exec(*command, env=environ)
    assert await child.wait() == 0
    assert next(tmp_path.rglob("Tiny.gguf")).read_bytes() == BIG


async def test_a_lock_whose_holder_stands_still_is_shown_as_waiting(ask, hub, places):
    hub.add(REPO, {"Tiny.gguf": WHOLE})
    lock = places.own_cache / ".locks" / "models--org--Tiny-GGUF" / f"{etag_of(WHOLE)}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        task = asyncio.create_task(ask(REPO))
        await until(lambda: any(p.waiting for p in ask.progress), "waiting")
        assert hub.downloads() == []
    assert (await task).path.read_bytes() == WHOLE


# What goes wrong


async def test_a_repository_that_is_not_there_says_where_to_look(ask, hub):
    error = await ask.trouble("org/nothing")
    assert error.kind == "missing" and error.lasting
    assert "no HF_TOKEN is set" in error.sentence
    assert f"{hub.url}/org/nothing" in error.sentence
    hub.good_keys.add("hf_ok")
    assert "HF_TOKEN does not open it" in (await ask.trouble("org/nothing", token="hf_ok")).sentence


async def test_a_private_repository_looks_like_one_that_is_not_there(ask, hub):
    hub.add(REPO, {"a.gguf": WHOLE}, private=True)
    hub.accepted_keys.add("hf_mine")
    assert "private" in (await ask.trouble(REPO)).sentence
    assert (await ask(REPO, token="hf_mine")).name == REPO


@pytest.mark.parametrize("token", [None, "hf_stranger"])
async def test_a_gated_repository_names_the_licence_and_the_setting(ask, hub, token):
    hub.add(REPO, {"a.gguf": WHOLE}, gated=True)
    hub.good_keys.add("hf_stranger")
    error = await ask.trouble(REPO, token=token)
    assert error.kind == "access" and error.lasting
    assert f"accept its licence at {hub.url}/{REPO}" in error.sentence
    assert ("HF_TOKEN does not open it" if token else "no HF_TOKEN is set") in error.sentence


async def test_a_token_that_the_hub_does_not_know_is_told_so(ask, hub):
    hub.add(REPO, {"a.gguf": WHOLE})
    error = await ask.trouble(REPO, token="hf_mistyped")
    assert "does not know this HF_TOKEN" in error.sentence
    assert "hf_mistyped" not in error.sentence


async def test_a_revision_a_quant_and_a_file_that_are_not_there_are_told(ask, hub):
    hub.add(REPO, {"a-Q4_0.gguf": WHOLE, "a-Q8_0.gguf": WHOLE})
    assert "no revision v9" in (await ask.trouble(f"{REPO}@v9")).sentence
    assert "It has: Q4_0, Q8_0." in (await ask.trouble(f"{REPO}:Q5_0")).sentence
    assert "has no file b.gguf" in (await ask.trouble(f"{REPO}:b.gguf")).sentence
    assert "say which" in (await ask.trouble(REPO)).sentence
    assert hub.downloads() == []


async def test_a_repository_that_lacks_a_shard_is_not_begun(ask, hub):
    hub.add(REPO, {"b-00001-of-00002.gguf": WHOLE})
    assert "the repository itself is incomplete" in (await ask.trouble(REPO)).sentence
    assert hub.downloads() == []


async def test_a_file_that_is_no_gguf_after_all_is_told_before_an_engine_is_tried(ask, hub):
    hub.add(REPO, {"a.gguf": b"<html>" * 1000})
    assert "is not a GGUF" in (await ask.trouble(REPO)).sentence


async def test_no_network_says_where_the_model_was_looked_for(ask, places):
    put_in_cache(places.hub_caches[0], REPO, {"Tiny.gguf": WHOLE[:-500]})
    ask.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # discard: nobody listens
    error = await ask.trouble(REPO)
    assert error.kind == "network" and not error.lasting
    assert "http://127.0.0.1:9 cannot be reached" in error.sentence
    assert f"looked for in {places.hub_caches[0]} (there, but not usable:" in error.sentence
    assert str(places.own_cache) in error.sentence


async def test_offline_mode_is_obeyed_and_named(ask, hub):
    hub.add(REPO, {"a.gguf": WHOLE})
    ask.environ["HF_HUB_OFFLINE"] = "1"
    error = await ask.trouble(REPO)
    assert "HF_HUB_OFFLINE" in error.sentence and error.lasting
    assert hub.seen == []


async def test_a_hub_that_is_unwell_is_not_a_lasting_trouble(ask, hub):
    hub.add(REPO, {"a.gguf": WHOLE})
    hub.status = 500
    error = await ask.trouble(REPO)
    assert error.kind == "hub" and not error.lasting
    assert "HTTP 500" in error.sentence


async def test_too_small_a_disk_is_told_before_a_byte_is_fetched(ask, hub, places):
    hub.add(REPO, {"a.gguf": BIG})
    hub.claimed_sizes["a.gguf"] = 1 << 50
    error = await ask.trouble(REPO)
    assert error.kind == "space"
    assert "needs 1044.5 TiB" in error.sentence  # 2 % to spare
    assert f"{places.own_cache} has " in error.sentence
    assert hub.downloads() == []


async def test_a_disk_that_becomes_full_keeps_what_came(ask, hub, places):
    hub.add(REPO, {"a.gguf": BIG})
    blobs = places.own_cache / "models--org--Tiny-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag_of(BIG)}.partial").symlink_to("/dev/full")
    error = await ask.trouble(REPO)
    assert error.kind == "space"
    assert f"The disk became full at {places.own_cache}: 3.9 MiB are still to come, " in error.sentence
    assert "are left. Make room, or set DATA_DIR to a larger volume" in error.sentence


# --- Files that an engine called damaged ---


def spoil(model: Path) -> Path:
    """One byte of its blob is another one; its length is right."""
    blob = model.resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return blob


async def test_a_damaged_file_of_our_own_is_thrown_away_and_fetched_again(ask, hub, places):
    hub.add(REPO, {"a.gguf": BIG})
    model = await ask(REPO)
    blob = spoil(model.path)
    told: list[Loading] = []
    gone = await examine(model.path, places=places, spoiled=(spoiled := set()), on_progress=told.append)
    assert gone == Gone(DAMAGED_HERE, detail=f"{blob} does not have the checksum that it is named by")
    assert not blob.exists() and spoiled == set()
    await asyncio.sleep(0)
    assert told[-1] == Loading("checking", done=len(BIG), total=len(BIG))
    again = await ask(REPO)
    assert again.path == model.path and again.path.read_bytes() == BIG
    assert len(hub.downloads()) == 2


async def test_a_damaged_file_in_somebody_elses_cache_is_left_there_and_passed_over(ask, hub, places):
    put_in_cache(places.hub_caches[0], REPO, {"a.gguf": BIG})
    hub.add(REPO, {"a.gguf": BIG})
    theirs = await ask(REPO)
    blob = spoil(theirs.path)
    gone = await examine(theirs.path, places=places, spoiled=(spoiled := set()), on_progress=lambda _: None)
    assert gone is not None and gone.reason == DAMAGED_HERE and not gone.lasting
    assert blob.exists() and spoiled == {blob}
    ours = await ask(REPO, spoiled=spoiled)
    assert ours.path.is_relative_to(places.own_cache) and ours.path.read_bytes() == BIG


@pytest.mark.parametrize("at", [0, 40], ids=["no GGUF any more", "nonsense in its head"])
async def test_a_file_of_our_own_that_is_seen_to_be_damaged_is_fetched_again_at_once(ask, hub, at):
    """It has its length, by which a download takes it for whole; before any engine is tried its head is read."""
    hub.add(REPO, {"a.gguf": WHOLE})
    blob = (await ask(REPO)).path.resolve()
    blob.write_bytes(WHOLE[:at] + b"\xff" * 16 + WHOLE[at + 16 :])
    assert (await ask(REPO)).path.read_bytes() == WHOLE
    assert len(hub.downloads()) == 2


async def test_files_as_the_hub_has_them_are_not_fetched_again(ask, hub, places):
    """The engine is wrong about them, or too old for them: the same bytes once more would change nothing."""
    hub.add(REPO, {"a.gguf": WHOLE})
    model = await ask(REPO)
    gone = await examine(model.path, places=places, spoiled=set(), on_progress=lambda _: None)
    assert gone is not None and (gone.reason, gone.lasting) == (AS_ON_THE_HUB, True)
    assert model.path.exists()


async def test_a_file_that_came_from_no_hub_is_not_examined(places):
    path = places.models_dir / "mine.gguf"
    path.write_bytes(WHOLE)
    assert await examine(path, places=places, spoiled=set(), on_progress=lambda _: None) is None


def test_what_callers_are_told_of_a_model_says_what_to_do_and_names_no_path() -> None:
    for sentence in FOR_CALLERS.values():
        assert sentence.endswith(".") and (":" in sentence or "log" in sentence)
        assert "/" not in sentence.replace("org/name", "")


async def test_a_hub_that_is_unwell_for_a_moment_is_asked_again(ask, hub):
    hub.add(REPO, {"a.gguf": BIG})
    hub.cdn_statuses = [503, 429]
    assert (await ask(REPO)).size == len(BIG)
    assert len(hub.downloads()) == 3


async def test_a_listing_that_lies_about_the_size_does_not_fill_the_disk(ask, hub, places):
    hub.add(REPO, {"a.gguf": BIG})
    hub.claimed_sizes["a.gguf"] = 5000
    assert "longer than the 5000 bytes" in (await ask.trouble(REPO)).sentence
    assert sum(p.stat().st_size for p in places.own_cache.rglob("*.partial")) <= 5000


async def test_a_models_folder_that_cannot_be_made_is_told(ask, hub, places):
    hub.add(REPO, {"a.gguf": WHOLE})
    places.own_cache.write_text("a file where a folder should be")
    error = await ask.trouble(REPO)
    assert error.kind == "unwritable"
    assert "DATA_DIR" in error.sentence


async def test_safetensors_asked_of_a_gguf_repository_is_told_before_it_is_fetched(ask, hub):
    hub.add(REPO, {"a.gguf": WHOLE})
    hub.add("org/Tiny", transformers_files())
    assert "ENGINE=llama-cpp-python" in (await ask.trouble(REPO, wants="safetensors")).sentence
    assert "llama.cpp cannot read" in (await ask.trouble("org/Tiny", wants="gguf")).sentence
    assert hub.downloads() == []


def test_a_models_folder_that_is_not_there_yet_is_said_so(places: Places) -> None:
    places.models_dir.rmdir()
    with pytest.raises(ModelError, match="not there yet"):
        find("tiny.gguf", places=places)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/Tiny-GGUF:Q4_K_M", "org/Tiny-GGUF"),
        ("hf.co/org/Tiny", "org/Tiny"),
        ("/models/Big-Q8_0-00001-of-00003.gguf", "Big-Q8_0"),
        ("tiny.gguf", "tiny"),
        ("folder", "folder"),
    ],
)
def test_what_a_model_will_be_called_is_known_before_it_is_looked_into(places: Places, text: str, name: str) -> None:
    (places.models_dir / "folder").mkdir()
    assert name_of(text, places) == name
