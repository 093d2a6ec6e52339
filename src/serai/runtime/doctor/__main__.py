"""``python3 -m serai.runtime.doctor`` prints docs/doctor.md."""

from serai.runtime.doctor import report

print(report.page(), end="")
