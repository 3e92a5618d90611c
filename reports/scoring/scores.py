"""Scores as a table that draws itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas

from ...methods.metrics import interval

if TYPE_CHECKING:
    from ...probe.results.figure import Figure


class Scores(pandas.DataFrame):
    """One row a sample, target, method, site and metric, as `limelight.score` gives it."""

    @property
    def _constructor(self) -> Any:
        return Scores

    def figure(self, *metrics: str) -> Figure:
        """Means over samples by site, a line a method, a panel a metric and target.

        Bars at the points are 95 % bootstrap intervals; NaN scores are left out.
        metrics  which of them; all unless told
        `figure.save("scores.pdf")` prints it. Raises LimelightError without plotly, and where
        there is nothing to draw.
        """
        from ...probe.results.figure import figure
        from ...probe.results.panels import Lines

        panels = []
        kept = self[self["value"].notna()]
        for (metric, target), rows in kept.groupby(["metric", "asked"], sort=False, dropna=False):
            if metrics and metric not in metrics:
                continue
            sites = [site for site in dict.fromkeys(rows["site"])]
            series: dict[str, list[float]] = {}
            low: dict[str, list[float]] = {}
            high: dict[str, list[float]] = {}
            for method in dict.fromkeys(rows["method"]):
                of_method = rows[rows["method"] == method]
                found = [of_method[of_method["site"] == s]["value"].tolist() for s in sites]
                means = [interval(v) if v else (float("nan"),) * 3 for v in found]
                series[method] = [m for m, _, _ in means]
                low[method], high[method] = [b for _, b, _ in means], [h for _, _, h in means]
            intervals = {name: (low[name], high[name]) for name in series}
            note = f"{target}, {rows['sample'].nunique()} samples"
            panels.append(Lines(metric, sites, series, intervals, ("site", ""), note))
        return figure(panels)
