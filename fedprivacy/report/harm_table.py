"""Who pays: what every site and every class lost to a protection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedprivacy.pricing.harm import Harm
from fedprivacy.pricing.price import Price
from fedprivacy.report.csv_file import csv_number, csv_text
from fedprivacy.report.rows import Row

NOTE = (
    "lost: of the non-private twin's, paired by seed, with its 95 % bootstrap interval; the worst "
    "first. of a site: the cell's score on its held-out records; of a class: recall, the share of "
    "its held-out records that is recognised."
)


def harm_lines(row: Row, price: Price) -> list[dict[str, str]]:
    """Every site, then every class, the worst first, as lines of a table."""
    return [
        {
            "algorithm": row.algorithm,
            "schedule": row.schedule,
            "federation": row.first.federation,
            "who": f"{kind} {harm.name}",
            "held-out records": harm.records_text(),
            "measure": harm.measure,
            "lost": harm.lost.text(),
        }
        for kind, harm in _all(price)
    ]


def harm_csv(rows: Sequence[Row], prices: Mapping[str, Price]) -> str:
    """One line for each site and each class of each protection; empty where none has a twin."""
    return csv_text(
        {
            "algorithm": row.algorithm,
            "schedule": row.schedule,
            "dataset": row.first.dataset,
            "synthetic": str(row.first.synthetic).lower(),
            "federation": row.first.federation,
            "kind": kind,
            "name": harm.name,
            "held_out_records": csv_number(harm.records and harm.records[0]),
            "measure": harm.measure,
            "lost": repr(harm.lost.value),
            "lost_low": csv_number(harm.lost.low),
            "lost_high": csv_number(harm.lost.high),
            "seeds": harm.lost.n,
        }
        for row in rows
        if row.protected
        for kind, harm in _all(prices[row.first.cell_id])
    )


def _all(price: Price) -> list[tuple[str, Harm]]:
    sites, classes = price.sites, price.classes
    return [*(("site", harm) for harm in sites), *(("class", harm) for harm in classes)]
