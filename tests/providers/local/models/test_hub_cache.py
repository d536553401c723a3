"""Where the Hub's tools keep what they downloaded, and what a revision means there."""

import os
from pathlib import Path

import pytest

from gateway.providers.local.models.hub_cache import caches_below, find_snapshots, usual_caches

A, B = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HOME": "~/h", "HOME": "/home/me"}, "/home/me/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HOME": "/home/me"}, "/home/me/.cache/huggingface/hub"),
    ],
)
def test_the_usual_cache_is_where_the_hubs_own_settings_say(environ, expected):
    assert usual_caches(environ) == (Path(expected),)


def test_the_usual_cache_is_the_librarys_own_answer():
    from huggingface_hub import constants

    assert usual_caches(os.environ) == (Path(constants.HF_HUB_CACHE),)


def test_worker_vllm_kept_its_cache_below_base_path():
    assert Path("/runpod-volume/huggingface-cache/hub") in caches_below(Path("/runpod-volume"))


@pytest.fixture
def cache(tmp_path):
    repo = tmp_path / "models--Org--Name"
    for age, commit in ((200, A), (100, B)):
        folder = repo / "snapshots" / commit
        folder.mkdir(parents=True)
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(A + "\n")
    return tmp_path


def commits(cache, revision=None, repo="Org/Name"):
    return [s.commit for s in find_snapshots(cache, repo, revision)]


def test_without_a_revision_main_comes_first_then_the_newest(cache):
    assert commits(cache) == [A, B]
    (cache / "models--Org--Name/refs/main").unlink()
    assert commits(cache) == [B, A]


def test_a_revision_is_a_branch_or_a_commit_or_the_beginning_of_one(cache):
    assert commits(cache, "main") == [A]
    assert commits(cache, B) == [B]
    assert commits(cache, B[:8]) == [B]
    assert commits(cache, "dev") == []


def test_capitals_make_no_difference_and_a_missing_cache_is_empty(cache):
    assert commits(cache, repo="org/name") == [A, B]
    assert commits(cache, repo="org/other") == []
    assert commits(cache / "nowhere") == []


def test_a_ref_that_leads_out_of_the_cache_is_not_followed(cache):
    (cache / "models--Org--Name/refs/main").write_text("../../../etc")
    assert commits(cache, "main") == []
