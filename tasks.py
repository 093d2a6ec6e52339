"""Where Invoke looks for its tasks; they are in src/serai/image/tasks."""

from __future__ import annotations

from serai.image.tasks.tasks import collection

namespace = collection()
