"""The comparison notices what it is for, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from notebooks.outputs import differences


def stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


def result(text: str, **more: str) -> dict[str, Any]:
    return {"output_type": "execute_result", "data": {"text/plain": text, **more}}


def cells(*outputs: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"outputs": list(outputs)}]


TABLE = "  algorithm  score\n0     dpsgd  0.915\n1      none  infinite\n"


@pytest.mark.parametrize(
    "fresh",
    [
        TABLE.replace("0.915", "0.714"),
        TABLE.replace("infinite", "12.9"),
        TABLE.replace("dpsgd", "svt"),
        TABLE.replace("1      none  infinite\n", ""),
        TABLE + "2 none 0.1\n",
        TABLE.replace("0.915", "-0.915"),
    ],
)
def test_a_changed_number_word_or_line_is_noticed(fresh: str) -> None:
    assert differences(cells(stream(fresh)), cells(stream(TABLE)))
    assert differences(cells(result(fresh)), cells(result(TABLE)))


def test_a_missing_and_an_additional_output_are_noticed() -> None:
    assert differences(cells(), cells(stream(TABLE)))
    assert differences(cells(stream(TABLE), result("1")), cells(stream(TABLE)))
    picture = result("<Image>", **{"image/png": "abc"})
    assert differences(cells(result("<Image>")), cells(picture))


def test_last_digits_and_the_widths_that_follow_them_may_differ() -> None:
    fresh = TABLE.replace("0.915", "0.9187").replace("  score", "    score")
    assert differences(cells(stream(fresh)), cells(stream(TABLE))) == []
    assert differences(cells(result("1.142e+06")), cells(result("1.150e+06"))) == []
    assert differences(cells(result("1.142e+06")), cells(result("1.242e+06")))


def test_pictures_and_warnings_are_not_compared() -> None:
    pictures = [result("<Image>", **{"image/png": data}) for data in ("abc", "xyz")]
    assert differences(cells(pictures[0]), cells(pictures[1])) == []
    warning = {"output_type": "stream", "name": "stderr", "text": "a warning"}
    assert differences(cells(warning, stream("1")), cells(stream("1"))) == []
