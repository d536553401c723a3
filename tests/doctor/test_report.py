"""The whole visit: in order, in 80 columns, in JSON, and without a secret."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import config
from gateway.config import File, SettingsError
from gateway.doctor.case import Facts, Folder, Listener, ModelSeen
from gateway.doctor.findings import BREAKS, CATALOGUE, DOUBTFUL, NOTE, THEMES, Finding, found
from gateway.doctor.report import CHECKS, WIDTH, as_json, as_text, exit_code, judge, of_unreadable, summary
from tests.support.doctoring import KEY, POD, case, codes, only

FINE = {"API_KEY": KEY, "METRICS_AUTH_ENABLED": "true", "MODEL": "m.gguf"}
BUSY = Facts(
    listeners=(Listener("0.0.0.0", 8000, "nginx", 4711),), uvloop=False, model=ModelSeen("m.gguf", problem="x.")
)


def unreadable(**environ: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        config.load(environ, read=lambda path: File(""))
    return caught.value


def test_every_theme_has_its_check() -> None:
    assert set(CHECKS) == set(THEMES) - {"settings"}
    assert {kind.theme for kind in CATALOGUE.values()} == set(THEMES)


def test_nothing_wrong_says_what_was_looked_at() -> None:
    assert judge(case(**{**FINE, "ENGINE_COMMAND": "x --port {port}"})) == ()
    text = as_text(())
    assert text.startswith("Looked at: settings, ports,")
    assert text.endswith("\nNothing found that would break, and nothing doubtful.\n")
    assert exit_code(()) == 0


def test_the_worst_comes_first_and_a_summary_last() -> None:
    findings = judge(case(BUSY, **FINE))
    assert codes(findings) == ["port-taken", "model-unusable", "uvloop-missing"]
    lines = as_text(findings).splitlines()
    assert lines[0] == "Would break, or cost money"
    assert lines[-1] == "2 would break, 0 doubtful, 1 note."
    assert exit_code(findings) == 1


def test_doubts_and_notes_break_nothing() -> None:
    assert exit_code([found("uvloop-missing"), found("python-optimized")]) == 0
    assert summary([found("uvloop-missing")]) == "Nothing would break, and nothing is doubtful; 1 note."
    assert summary([found("python-optimized")]) == "Nothing would break, 1 doubtful, 0 notes."


def test_prose_fits_into_80_columns_and_what_is_to_be_pasted_is_never_broken() -> None:
    findings = [found(code, **dict.fromkeys(values(code), 7)) for code in CATALOGUE]
    for line in as_text(sorted(findings, key=lambda finding: finding.rank)).splitlines():
        assert len(line) <= WIDTH or line.startswith("  Type: "), line
    for finding in findings:
        assert f"  Type: {finding.cure}\n" in as_text([finding])


def values(code: str) -> list[str]:
    """The names that a finding's texts ask for."""
    from string import Formatter

    kind = CATALOGUE[code]
    return [name for text in (kind.what, kind.why, kind.cure) for _, name, _, _ in Formatter().parse(text) if name]


def test_as_text_is_what_a_person_reads() -> None:
    assert as_text([found("gpu-unused", gpus="1 x NVIDIA L4")]) == (
        "Doubtful\n"
        "--------\n"
        "\n"
        "GPU  [gpu-unused]\n"
        "  N_GPU_LAYERS is 0, and there is a GPU (1 x NVIDIA L4).\n"
        "  Why:  The model runs on the CPU, and the GPU is paid for.\n"
        "  Type: export N_GPU_LAYERS=auto\n"
        "\n"
        "Nothing would break, 1 doubtful, 0 notes.\n"
    )


def test_as_json_has_the_same_for_programs() -> None:
    said = json.loads(as_json(judge(case(BUSY, **FINE))))
    assert said["summary"] == {"breaks": 2, "doubtful": 0, "note": 1}
    assert said["findings"][0] == {
        "code": "port-taken",
        "level": "breaks",
        "theme": "ports",
        "what": "PORT: port 8000 is taken by nginx (process 4711).",
        "why": "It cannot be listened on, so the start ends with exit code 2.",
        "type": "export PORT=8080",
    }


def test_what_could_not_be_looked_at_is_said() -> None:
    said = only(judge(case(Facts(unchecked=(("The GPUs", "no answer in time"),)), **FINE)), "unchecked")
    assert said.level is NOTE and said.what == "The GPUs could not be looked at: no answer in time."


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_warning_about_a_setting_is_a_finding() -> None:
    said = only(judge(case(**FINE, IDLE_TIMOUT="5")), "setting-doubtful")
    assert said.level is DOUBTFUL and "did you mean IDLE_TIMEOUT?" in said.what


def test_a_warning_that_a_finding_says_better_is_not_said_twice() -> None:
    findings = judge(case(around=replace(case().around, open_files=1024), API_KEY="hunter2", MAX_CONNECTIONS="1000"))
    assert [code for code in codes(findings) if code not in ("model-demo", "metrics-open")] == [
        "key-short",
        "open-files",
    ]


def test_settings_that_cannot_be_read_are_findings_with_where_they_stand() -> None:
    findings = of_unreadable(unreadable(PORT="8001", HOLD_MAXX="3", IDLE_TIMEOUT="soon"))
    assert codes(findings) == ["setting-wrong", "setting-wrong", "setting-doubtful"]
    assert findings[0].what.startswith("IDLE_TIMEOUT: ") and findings[0].cure == "unset IDLE_TIMEOUT"
    assert findings[1].what == "PORT and PORT_HEALTH are both 8001; allowed: two different ports."
    assert {finding.level for finding in findings[:2]} == {BREAKS}


def test_ports_that_are_equal_are_told_before_they_are_tried() -> None:
    findings = of_unreadable(unreadable(PORT="9000", METRICS_PORT="9000"))
    assert "METRICS_PORT: 9000 is one of the other two ports" in only(findings, "setting-wrong").what


def test_what_is_not_set_is_to_be_set() -> None:
    problems = of_unreadable(unreadable(PROVIDER="vast", UPSTREAM_API_KEY=KEY, API_KEY=KEY, MONTHLY_BUDGET="20"))
    assert [problem.cure for problem in problems] == [
        "export VAST_API_KEY=…",
        "export VAST_INSTANCE_ID=…",
        "export TLS_FINGERPRINT=…",
    ]


def test_a_value_in_a_file_is_mended_in_the_file() -> None:
    with pytest.raises(SettingsError) as caught:
        config.load({}, read=lambda path: File("\nPORT=high\n"), dotenv=Path("/srv/.env"))
    assert only(of_unreadable(caught.value), "setting-wrong").cure == "${EDITOR:-vi} +2 .env"


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_what_is_found_wherever_somebody_wrote_it() -> None:
    planted = "sk-planted-0123456789"
    facts = Facts(
        folder=Folder(Path(f"/data/{planted}"), problem="Permission denied"),
        model=ModelSeen("m", problem=f"/data/{planted}/m is not there."),
    )
    findings = judge(case(facts, POD, API_KEY=planted, DATA_DIR=f"/data/{planted}", MODEL="m"))
    assert {"data-dir-unwritable", "model-unusable"} <= set(codes(findings))
    assert planted not in as_text(findings) + as_json(findings) + repr(findings)


def test_a_key_that_is_known_to_nobody_is_not_in_what_is_found_either() -> None:
    """A URL as git takes it, with a token in it, in a setting that holds no secrets."""
    problem = "MODEL=https://me:planted-secret@hf.co/x names no repository: expected org/name."
    findings = judge(case(Facts(model=ModelSeen("m", problem=problem)), POD, MODEL="m"))
    said = as_text(findings) + as_json(findings)
    assert "planted-secret" not in said and "https://…@hf.co/x names no repository" in " ".join(said.split())


def test_a_key_that_is_wrong_is_not_repeated() -> None:
    findings = of_unreadable(unreadable(API_KEY="sk-two words", PORT="sk-0123456789abcdefghij"))
    assert "two words" not in as_text(findings) and "0123456789" not in as_text(findings)


def test_findings_are_values() -> None:
    assert found("uvloop-missing") == found("uvloop-missing")
    assert isinstance(hash(found("uvloop-missing")), int) and isinstance(found("uvloop-missing"), Finding)
