"""``report.html``: one offline file with fields, cells and counts; opens anywhere and prints."""

import html
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.io import OutputFile
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.smear.count import Differential, Share
from leukoscope.smear.drawing import BORDER_COLOR, NUCLEUS_COLOR, data_uri
from leukoscope.smear.exports import color_of
from leukoscope.smear.records import CellRecord, FieldRecord

MAX_FIELDS, MAX_CELLS = 60, 240
"""Maximum number of images on the page; the tables contain all cells."""

Pictures = Callable[[int, FieldRecord], "NDArray[np.uint8] | None"]
Crops = Callable[[int, FieldRecord, CellRecord], "NDArray[np.uint8] | None"]

_STYLE = """
:root{color-scheme:light;--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--ground:#f6f8fa}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:24px;background:#fff;color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
h1{font-size:24px;margin:0 0 4px}
h2{font-size:18px;margin:32px 0 8px;
border-bottom:1px solid var(--line);padding-bottom:4px}
h3{font-size:15px;margin:0 0 4px;overflow-wrap:anywhere}.part{margin-top:24px}p{margin:4px 0}.soft{color:var(--soft)}
.notice{border-left:4px solid #b35900;background:#fff8ef;padding:8px 12px;margin:12px 0}
.warn{color:#7a3b00}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:8px 0}
th,td{padding:4px 12px 4px 0;text-align:right;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft)}
th:first-child,td:first-child{text-align:left;white-space:nowrap}th:last-child,td:last-child{padding-right:0}
.dot{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:8px}
.fields{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr));
gap:20px;align-items:start}
.field{min-width:0;overflow-wrap:anywhere;
border:1px solid var(--line);border-radius:8px;padding:12px;break-inside:avoid}
.field img{width:100%;border-radius:4px;display:block;margin-top:8px}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(148px,1fr));gap:12px}
figure{margin:0;border:1px solid var(--line);border-radius:8px;padding:8px;
break-inside:avoid;font-size:13px}
figure img{width:100%;height:128px;
object-fit:contain;background:var(--ground);border-radius:4px;display:block;margin-bottom:4px}
figcaption{overflow-wrap:anywhere}.key span{white-space:nowrap;margin-right:16px}
.key i{display:inline-block;width:22px;height:0;border-top:3px solid;margin:0 6px 4px 0;vertical-align:middle}
svg{max-width:100%;height:auto;display:block}
@media(max-width:600px){body{padding:16px}th,td{padding-right:10px}.gallery{grid-template-columns:1fr 1fr}}
@media print{body{max-width:none;padding:0;font-size:12px}
.fields{grid-template-columns:1fr 1fr}a{color:inherit}}
"""


def write_report(
    path: Path,
    records: Callable[[], Iterable[FieldRecord]],
    groups: dict[str, dict[str, Differential]],
    pictures: Pictures,
    crops: Crops,
) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The file.
    records
        Gives the fields from the first on.
    groups
        Counts of smears, subjects and all.
    pictures, crops
        Give the overlay of a field by its number (from 1), and the crop of a cell; None where there is none.
    """
    with OutputFile(path) as file:
        write = file.stream.write
        write('<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Smear report</title>')
        write('<meta name="viewport" content="width=device-width,initial-scale=1">')
        write(f"<style>{_STYLE}</style></head><body>")
        _write_head(write, records, groups["all"]["all"])
        _write_counts(write, groups)
        _write_gallery(write, records, crops)
        _write_fields(write, records, pictures)
        write(f'<p class="notice">{RESEARCH_USE}</p></body></html>\n')


def _write_head(
    write: Callable[[str], object], records: Callable[[], Iterable[FieldRecord]], total: Differential
) -> None:
    fields = rejected = border = 0
    for record in records():
        fields += 1
        rejected += record.rejected
        border += sum(cell.touches_border for cell in record.cells)
    write("<h1>Smear report</h1>")
    write(
        f'<p class="soft">{_plural(fields, "image")}, {rejected} rejected. {_plural(total.white_cells, "white cell")}'
    )
    write(f" counted, {border} of them cut by the border of an image.</p>")
    write(
        f'<p class="notice"><strong>{RESEARCH_USE}</strong> Counts and measurements assist a qualified reader, '
    )
    write("who confirms every cell.</p>")
    if total.warning:
        write(f'<p class="warn">{html.escape(_sentence(total.warning))}</p>')


def _write_counts(write: Callable[[str], object], groups: dict[str, dict[str, Differential]]) -> None:
    write("<h2>Differential</h2>")
    parts: list[tuple[str, Differential]] = [("All images", groups["all"]["all"])]
    if len(groups["subjects"]) > 1:
        parts += [(f"Subject {name}", counts) for name, counts in groups["subjects"].items()]
    elif len(groups["smears"]) > 1:
        names = _short_names(list(groups["smears"]))
        parts += [(f"Smear {names[name]}", counts) for name, counts in groups["smears"].items()]
    for number, (name, counts) in enumerate(parts[:40]):
        if len(parts) > 1:
            write(f"<h3{' class=part' if number else ''}>{html.escape(name)}</h3>")
        _write_differential(write, counts)
    if len(parts) > 40:
        write(f'<p class="soft">{len(parts) - 40} more are in smear.json.</p>')


def _short_names(folders: list[str]) -> dict[str, str]:
    """Return the names of folders without the folders above that all of them share."""
    parts = [folder.replace("\\", "/").split("/") for folder in folders]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return {
        folder: "/".join(part[shared:]) or "of single images"
        for folder, part in zip(folders, parts, strict=True)
    }


def _write_differential(write: Callable[[str], object], counts: Differential) -> None:
    if not counts.white_cells:
        write('<p class="soft">No white cell was counted.</p>')
        return
    write("<table><tr><th>Kind</th><th>Cells</th><th>Share</th><th>95 % interval (exact)</th></tr>")
    for share in counts.shares:
        write(_row(share))
    if counts.blasts is not None and all(share.name != "blast" for share in counts.shares):
        write(_row(counts.blasts))
    write("</table>")
    if counts.blasts is not None:
        write(differential_svg(counts.shares))
        write(
            f"<p>Blasts per 100 white cells: {_per_100(counts.blasts)}. "
            f"Nucleated red cells: {counts.nucleated_red_cells} "
            f"({counts.per_100_white_cells or 0:.1f} per 100 white cells, not in the denominator). "
            f"Uncertain: {counts.uncertain}. Rejected: {counts.rejected}. Not white cells: {counts.not_white}.</p>"
        )
        if counts.cells_needed:
            write(
                f"<p>{counts.cells_needed} more white cells would narrow the interval of blasts "
                "to 5 percentage points either way.</p>"
            )
    else:
        write('<p class="soft">The cells are not classified: no bundle for kinds of cells was used.</p>')


def _per_100(share: Share) -> str:
    if share.share is None or share.low is None or share.high is None:
        return "-"
    return f"{100 * share.share:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f}, exact 95 % interval)"


def _spaced(kind: str) -> str:
    return html.escape(kind.replace("_", " "))


def _row(share: Share) -> str:
    if share.share is None or share.low is None or share.high is None:
        return ""
    return (
        f'<tr><td><span class="dot" style="background:{color_of(share.name)}"></span>{_spaced(share.name)}</td>'
        f"<td>{share.count}</td><td>{share.share:.1%}</td><td>{share.low:.1%} to {share.high:.1%}</td></tr>"
    )


def differential_svg(shares: tuple[Share, ...]) -> str:
    """Return a plot of shares with their intervals, as SVG."""
    rows = [share for share in shares if share.share is not None]
    height, left, wide = 26 * len(rows) + 34, 160, 300
    parts = [
        f'<svg viewBox="0 0 {left + wide + 30} {height}" width="{left + wide + 30}" role="img" '
        'aria-label="Shares with 95 % intervals" font-family="sans-serif" font-size="13">'
    ]
    for tick in range(0, 101, 20):
        x = left + wide * tick / 100
        parts.append(f'<line x1="{x}" x2="{x}" y1="4" y2="{height - 24}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{x}" y="{height - 8}" text-anchor="middle" fill="#57606a">{tick} %</text>')
    for index, share in enumerate(rows):
        y = 18 + 26 * index
        low, high, middle = (
            left + wide * float(value or 0) for value in (share.low, share.high, share.share)
        )
        color = color_of(share.name)
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{_spaced(share.name)}</text>')
        parts.append(
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3"/>'
        )
        parts.append(f'<circle cx="{middle:.1f}" cy="{y}" r="5" fill="{color}"/>')
    return "".join([*parts, "</svg>"])


def first_looks(record: FieldRecord, cell: CellRecord) -> tuple[float, ...]:
    """Return the order of the gallery: blasts, uncertain cells, low scores first; cut-off and blurred cells last."""
    flawed = float(cell.touches_border) + float(not cell.in_focus)
    uncertain = 0.0 if cell.decision == "uncertain" else 1.0
    size = cell.measurements.get("cell_area_um2") or 0.0
    return (
        -(cell.blast_probability or 0.0),
        uncertain,
        flawed,
        -size if cell.kind == "white cell" else cell.score,
    )


def _write_gallery(
    write: Callable[[str], object], records: Callable[[], Iterable[FieldRecord]], crops: Crops
) -> None:
    cells = [
        (first_looks(record, cell), number, record.image, cell)
        for number, record in enumerate(records(), 1)
        for cell in record.cells
    ]
    if not cells:
        return
    cells.sort(key=lambda entry: (entry[0], entry[1], entry[3].cell))
    named = any(cell.blast_probability is not None for *_, cell in cells)
    order = (
        "highest blast probability first, then uncertain cells"
        if named
        else "largest first, those cut off last"
    )
    shown = cells[:MAX_CELLS]
    write(f'<h2>Cells</h2><p class="soft">Order: {order}.')
    write(
        f" {len(shown)} of {len(cells)} are shown.</p><div class=gallery>"
        if len(shown) < len(cells)
        else "</p><div class=gallery>"
    )
    by_number = {number for _, number, _, _ in shown}
    wanted = {number: record for number, record in enumerate(records(), 1) if number in by_number}
    for _, number, image, cell in shown:
        rgb = crops(number, wanted[number], cell)
        picture = f'<img src="{data_uri(rgb, 160)}" alt="cell {cell.cell}">' if rgb is not None else ""
        write(f"<figure>{picture}<figcaption>{_caption(image, cell)}</figcaption></figure>")
    write("</div>")


def _caption(image: str, cell: CellRecord) -> str:
    name = html.escape(image.replace("\\", "/").rpartition("/")[2])
    lines = [_named(cell)]
    if cell.blast_probability is not None:
        lines.append(f"blast {cell.blast_probability:.0%}")
    area, ratio = cell.measurements.get("cell_area_um2"), cell.measurements.get("nucleus_cell_area_ratio")
    if area is not None:
        lines.append(f"{area:.0f} µm²" + (f", nucleus {ratio:.0%}" if ratio is not None else ""))
    words = {"cut_off": "cut by the border", "blurred": "out of focus", "novel": "unlike the training cells"}
    reasons = [
        words.get(reason, reason)
        for reason in cell.reasons
        if cell.decision != "uncertain" or reason in words
    ]
    lines += [f'<span class="warn">{html.escape(text)}</span>' for text in reasons]
    lines.append(f'<span class="soft">{name}, no. {cell.cell}</span>')
    return "<br>".join(line for line in lines if line)


def _named(cell: CellRecord) -> str:
    """Return kind and probability; of an uncertain cell also what else it may be."""
    if cell.kind_probability is None:
        return "rejected" if cell.decision == "rejected" else ""
    text = f"<strong>{_spaced(cell.kind)}</strong> {cell.kind_probability:.0%}"
    if cell.decision == "uncertain":
        others = [_spaced(name) for name in cell.prediction_set if name != cell.kind]
        text += " (uncertain" + (f": or {', '.join(others)}" if others else "") + ")"
    return text


def _write_fields(
    write: Callable[[str], object], records: Callable[[], Iterable[FieldRecord]], pictures: Pictures
) -> None:
    kinds = sorted({cell.kind for record in records() for cell in record.cells if not cell.touches_border})
    lines = [(_spaced(kind), color_of(kind)) for kind in kinds]
    lines += [("nucleus", NUCLEUS_COLOR), ("cut by the border", BORDER_COLOR)]
    write('<h2>Images</h2><p class="key soft">Outlines: ')
    write(
        " ".join(f'<span><i style="border-color:{color}"></i>{name}</span>' for name, color in lines) + "</p>"
    )
    write('<div class="fields">')
    for number, record in enumerate(records(), 1):
        if number > MAX_FIELDS:
            continue
        rgb = pictures(number, record)
        picture = (
            f'<img src="{data_uri(rgb, 1000)}" alt="{html.escape(record.image)}">' if rgb is not None else ""
        )
        write(
            f'<div class="field"><h3>{html.escape(_file_name(record.image))}</h3>{_field_text(record)}{picture}</div>'
        )
    write("</div>")
    if number > MAX_FIELDS:
        write(f'<p class="soft">{number - MAX_FIELDS} more images are in fields.csv and overlays/.</p>')


def _field_text(record: FieldRecord) -> str:
    if record.rejected:
        return f'<p class="warn">Rejected ({record.reason}): {html.escape(record.message or "")}</p>'
    scale = record.scale
    text = _plural(len(record.cells), "white cell")
    if scale is not None:
        words = {
            "given": "given", "metadata": f"by the file ({scale.detail})",
            "red_cells": f"by {_plural(scale.n_red_cells, 'red cell')}",
            "red_cells_of_smear": f"by {_plural(scale.n_red_cells, 'red cell')} of the smear",
            "red_cells_by_network": f"by {_plural(scale.n_red_cells, 'red cell')} that the finder sees",
            "profile": "usual scale of the laboratory profile",
        }  # fmt: skip
        text += f"; {scale.value:.4f} µm per pixel, {words.get(scale.source, scale.source)}"
        if scale.interval:
            text += f" ({scale.interval[0]:.3f} to {scale.interval[1]:.3f})"
    warnings = "".join(
        f'<p class="warn">{html.escape(_sentence(warning))}</p>' for warning in record.warnings
    )
    return f"<p>{html.escape(text)}</p>{warnings}"


def _file_name(image: str) -> str:
    return image.replace("\\", "/").rpartition("/")[2]


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count:,} {word}s"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
