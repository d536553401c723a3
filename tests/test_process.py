"""The process around the gateway: what it is called in logs, and what it says when it cannot begin."""

import re
from pathlib import Path

import pytest

from gateway.assembly import Boot
from gateway.process import give_up, make_boot


def boot(**environ: str) -> Boot:
    return make_boot(environ)


def test_two_gateways_of_one_host_and_second_write_different_files(tmp_path: Path) -> None:
    one = boot(WAKEGATE_RUN_DIR=str(tmp_path), WAKEGATE_BOOT="aaaa1111")
    other = boot(WAKEGATE_RUN_DIR=str(tmp_path), WAKEGATE_BOOT="bbbb2222")
    assert one.stamp.endswith("-aaaa") and other.stamp.endswith("-bbbb")
    assert one.worker == other.worker, "what was spent belongs to the machine"


def test_a_pod_is_called_by_its_id_in_letters_that_a_file_name_can_have(tmp_path: Path) -> None:
    made = boot(WAKEGATE_RUN_DIR=str(tmp_path), WAKEGATE_BOOT="cccc", RUNPOD_POD_ID="a_b/../c d")
    assert made.worker == "a-b-..-c-d"
    assert re.fullmatch(r"[0-9]{8}T[0-9]{6}Z_a-b-\.\.-c-d-cccc", made.stamp)


def test_what_must_be_mended_is_said_line_by_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert give_up(("PORT: taken", "MODEL: nowhere")) == 2
    assert capsys.readouterr().err == "[gateway] PORT: taken\n[gateway] MODEL: nowhere\n"
