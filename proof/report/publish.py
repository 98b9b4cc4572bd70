"""Writes a report in all its forms into a folder, and signs a statement about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from proof.report.json_form import to_json
from proof.report.junit import to_junit
from proof.report.page import to_html
from proof.report.report import Report, captures_of
from proof.report.statement import sign
from proof.report.whole_file import replace_text

STATEMENT = "statement.dsse.json"


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``report.json``, ``junit.xml`` and ``report.html`` into ``folder``; return the paths by kind.

    Raises:
        OSError: one of them cannot be written; that file is then still the earlier one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.json": to_json(report), "junit.xml": to_junit(report), "report.html": to_html(report)}
    for name, text in texts.items():
        replace_text(folder / name, text)
    return {Path(name).suffix[1:]: folder / name for name in texts}


def publish(report: Report, folder: Path, key: Path | None = None) -> dict[str, Path]:
    """Write the report into ``folder``, beside its captures, and sign a statement about all of it if there is a key.

    A statement of an earlier run is removed, as the files that it is about are replaced.

    Args:
        report: if it names no captures, those in ``folder`` that are newer than its start are added.
        folder: of the report, the captures and the statement.
        key: PEM file of the private key.

    Returns:
        The paths by kind: ``json``, ``xml``, ``html``, and ``statement`` if there is one.

    Raises:
        OSError: something cannot be written.
        SallyportError: the statement cannot be signed; the report has been written.
    """
    if not report.captures and folder.is_dir():
        report = replace(report, captures=captures_of(folder, report.started))
    (folder / STATEMENT).unlink(missing_ok=True)
    paths = write_report(report, folder)
    if key is not None:
        sign(
            report, [*paths.values(), *(folder / capture.name for capture in report.captures)], key, folder / STATEMENT
        )
        paths["statement"] = folder / STATEMENT
    return paths
