"""The report as JUnit XML, for continuous integration."""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from proof.report.report import Report
from proof.result import Verdict
from rootfs.base.untrusted import printable


def to_junit(report: Report) -> str:
    """Return the report as JUnit XML: a hole is a failure, what was not tested an error."""
    xml = JUnitXml("sallyport verify")
    for name, results in report.groups():
        suite = TestSuite(printable(f"verify.{name}"))
        for result in results:
            case = TestCase(printable(result.name), printable(f"verify.{name}"), time=round(result.duration, 3))
            text = printable("\n".join([result.tried, result.evidence, f"control: {result.control}", *result.frames]))
            if result.verdict in (Verdict.HOLE, Verdict.NOT_TESTED):
                kind = Failure if result.verdict is Verdict.HOLE else Error
                outcome = kind(printable(result.evidence), result.verdict.value)
                outcome.text = text
                case.result = [outcome]
            case.system_out = text
            suite.add_testcase(case)
        suite.add_property("seed", str(report.seed))
        suite.add_property("sha256", report.sha256)
        xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    return str(xml.tostring().decode())  # type: ignore[no-untyped-call]
