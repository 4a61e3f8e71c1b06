import xml.etree.ElementTree as ET

import pytest

from sft_data.train.curve import loss_curve

SVG = "{http://www.w3.org/2000/svg}"
TRAIN = [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
HELD_OUT = [(0, 4.0), (4, 2.0)]


def drawn(svg: str, kind: str) -> list[tuple[float, float]]:
    """Points of one line, in pixels."""
    found = [line for line in ET.fromstring(svg).iter(f"{SVG}polyline") if line.get("class") == kind]  # noqa: S314
    text = found[0].get("points", "").split() if found else []
    return [(float(x), float(y)) for x, y in (point.split(",") for point in text)]


def written(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314


def test_loss_curve_draws_each_loss_where_its_axis_says():
    svg = loss_curve(TRAIN, HELD_OUT, "t")
    points = drawn(svg, "train")
    assert len(points) == 4
    across, down = (
        {points[i + 1][0] - points[i][0] for i in range(3)},
        {points[i + 1][1] - points[i][1] for i in range(3)},
    )
    assert max(across) == pytest.approx(min(across), abs=0.11)
    assert max(down) == pytest.approx(min(down), abs=0.11)
    assert min(across) > 0
    assert min(down) > 0
    assert drawn(svg, "eval")[0][1] == points[0][1]
    assert drawn(svg, "eval")[-1] == (points[3][0], points[2][1])


def test_loss_curve_names_its_axes_and_lines():
    texts = written(loss_curve(TRAIN, HELD_OUT, "My run"))
    assert {"My run", "step", "loss (nats)", "each step", "running mean", "held out"} <= set(texts)


def test_loss_curve_without_held_out_losses_does_not_name_them():
    assert "held out" not in written(loss_curve(TRAIN, [], "t"))


def test_loss_curve_escapes_its_title():
    svg = loss_curve(TRAIN, [], "<script>alert(1)</script>")
    assert "<script" not in svg
    assert "<script>alert(1)</script>" in written(svg)


@pytest.mark.parametrize("train", [[], [(1, 2.0)], [(1, 2.0), (2, 2.0)], [(1, 1e-9), (2, 0.0)], [(5000, 1e6)]])
def test_loss_curve_of_few_or_equal_points_is_still_a_picture(train: list[tuple[int, float]]):
    svg = loss_curve(train, [], "t")
    assert "nan" not in svg
    assert len(written(svg)) > 5


def test_running_mean_of_equal_losses_is_that_loss():
    svg = loss_curve([(i, 2.0) for i in range(1, 30)], [(0, 3.0)], "t")
    assert {y for _, y in drawn(svg, "smooth")} == {y for _, y in drawn(svg, "train")}
