"""What a run says: the HTML report, and the model card as Markdown and as HTML.

Everything shown is taken from the evaluation and the explanation. Not for judging: a figure
that is missing belongs in `evaluate` or `explain`; nor for drawing, which is `pictures`.
"""

import base64
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from matplotlib import rc_context

from training import pictures, pictures_explained, words
from training.dataset import Dataset
from training.dependence import Dependence
from training.evaluate import METRICS, Evaluation
from training.explain import Explanation
from training.settings import Settings

OVERVIEW = ("roc", "calibration", "views", "money")
"""The pictures of overview.png."""

FILTERS = {
    each.__name__: each
    for each in (
        words.interval,
        words.percent,
        words.thousands,
        words.thousands_of,
        words.span,
        words.of_100,
        words.small_money,
        words.p_value,
        words.day,
        words.cell,
    )
}


def write(
    run: Path,
    data: Dataset,
    predictions: Mapping[str, np.ndarray],
    judged: Evaluation,
    told: Explanation,
    manifest: Mapping[str, Any],
) -> None:
    """Write report.html, model_card.md, model_card.html and their pictures into a run's folder."""
    settings = Settings.from_dict(manifest["settings"])
    test = data.rows("test")
    late, on_test = data.late[test], {name: p[test] for name, p in predictions.items()}
    model = next(iter(on_test))
    with rc_context(pictures.STYLE):
        drawn = drawings(run, late, on_test, data.day[test], judged, told, settings)
    facts = {
        "settings": settings,
        "manifest": manifest,
        "judged": judged,
        "told": told,
        "model": model,
        "metrics": METRICS,
        "decision": judged.decisions[model],
        "lookup": judged.decisions.get("carrier x hour"),
        "headline": words.headline(judged),
        "sentence": words.sentence,
        "worse": words.standing_out(told.slices, ("ranking", "bias"), "worse"),
        "uneven": words.standing_out(told.slices, ("misses", "false_alarms"), "worse"),
        "unjudged": [
            f"{group} {each.name} ({each.n:,})"
            for group, rows in told.slices.items()
            for each in rows
            if not each.compared
        ],
        "untested": words.untested_seasons(
            data.frame["sched_dep_at"].iloc[test].dt.tz_convert(settings.zone)
        ),
        "views": data.views,
        "about": {column.name: column.description for column in data.columns},
        "flights": len(data.frame),
        "outcomes": data.frame["outcome"].value_counts().to_dict(),
        "period": {
            part: (*first_and_last_day(data, part, settings), len(data.rows(part)))
            for part in ("fit", "tune", "test")
        },
    }
    (run / "report.html").write_text(render("report.html", facts | {"pictures": drawn}))
    (run / "model_card.md").write_text(render("model_card.md", facts))
    write_card_page(run)


def drawings(
    run: Path,
    late: np.ndarray,
    on_test: Mapping[str, np.ndarray],
    day: np.ndarray,
    judged: Evaluation,
    told: Explanation,
    settings: Settings,
) -> dict[str, Any]:
    """The report's pictures by name; overview.png and thousand.png are written as files too."""
    p, decision = next(iter(on_test.values())), next(iter(judged.decisions.values()))
    draw: dict[str, pictures.Draw] = {
        "roc": lambda ax: pictures.roc(ax, late, on_test, judged),
        "precision_recall": lambda ax: pictures.precision_recall(ax, late, on_test, judged),
        "calibration": lambda ax: pictures.calibration(ax, late, on_test, day, settings),
        "scores": lambda ax: pictures.score_histogram(ax, late, p, decision.threshold),
        "money": lambda ax: pictures.money(ax, late, on_test, judged, settings),
        "months": lambda ax: pictures.months(ax, judged, settings),
        "views": lambda ax: pictures.importances(ax, "Importance by view", judged.views),
        "features": lambda ax: pictures.importances(
            ax, "By feature, the first 20", judged.features[:20]
        ),
    }
    overview = pictures.picture([draw[name] for name in OVERVIEW], 11.2, 9.2)
    (run / "overview.png").write_bytes(pictures.png_bytes(overview))
    found: dict[str, Any] = {
        name: pictures.png(pictures.picture((draw[name],), 5.6, 4.6)) for name in draw
    }

    flights = pictures.picture([lambda ax: pictures_explained.thousand(ax, told.thousand)], 4.6, 4)
    (run / "thousand.png").write_bytes(pictures.png_bytes(flights))
    found["thousand"] = pictures.png(flights)
    found["thousand_money"] = pictures.png(
        pictures.picture([lambda ax: pictures_explained.money(ax, told.thousand)], 4.6, 3)
    )
    overall = pictures_explained.overall(late, p, p >= decision.threshold, judged)
    highest = 1.05 * max(max(each.high) for each in told.dependence)

    def dots(measure: str) -> str:
        height = pictures_explained.slice_height(told.slices, measure)
        line = overall[measure]
        return pictures.png(
            pictures.picture(
                [lambda ax: pictures_explained.slice_dots(ax, told.slices, measure, line)],
                4.6,
                height,
            )
        )

    def curve(each: Dependence) -> str:
        draw = [lambda ax: pictures_explained.curve(ax, each, highest)]
        return pictures.png(pictures.picture(draw, 4.0, 2.7))

    found["slices"] = {measure: dots(measure) for measure in overall}
    found["dependence"] = [(each, curve(each)) for each in told.dependence]
    return found


def render(template: str, facts: Mapping[str, Any]) -> str:
    """Fill one of our templates. A name that it needs and does not get is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: str(name).endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS | {"exp": math.exp}
    return environment.get_template(template).render(facts)


def write_card_page(run: Path) -> None:
    """Write model_card.html from the model_card.md beside it, its pictures inside."""
    text = re.sub(r"<!-- .*? -->\n?", "", (run / "model_card.md").read_text())
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def inside(found: re.Match[str]) -> str:
        picture = base64.b64encode((run / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{picture}"'

    body = re.sub(r'src="([\w-]+\.png)"', inside, body)
    page = render("model_card.html", {"body": body})
    (run / "model_card.html").write_text(page)


def fill(page: Path, section: str, content: str) -> None:
    """Put content between the marks of a section of a page, in place of what is there."""
    marked = re.compile(f"(<!-- {section}:begin -->).*(<!-- {section}:end -->)", re.DOTALL)
    whole = page.read_text()
    page.write_text(marked.sub(lambda found: f"{found[1]}\n{content}\n{found[2]}", whole))


def first_and_last_day(data: Dataset, part: str, settings: Settings) -> tuple[str, str]:
    """The local days a part begins and ends with, such as `1 November 2013`."""
    at = data.frame["predict_at"].iloc[data.rows(part)]
    first, last = (
        f"{t.tz_convert(settings.zone):%d %B %Y}".lstrip("0") for t in (at.min(), at.max())
    )
    return first, last
