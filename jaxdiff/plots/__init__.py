"""Pictures and charts, each written to one file.

Only this folder draws with Matplotlib and Pillow, which its functions import. It does
not touch `matplotlib.pyplot` or other global state, so it needs no display and works
from any thread.
"""

import logging

from jaxdiff.plots.captioned import save_captioned as save_captioned
from jaxdiff.plots.charts import save_bound as save_bound
from jaxdiff.plots.charts import save_comparison as save_comparison
from jaxdiff.plots.charts import save_curve as save_curve
from jaxdiff.plots.charts import save_diagnosis as save_diagnosis
from jaxdiff.plots.charts import save_schedules as save_schedules
from jaxdiff.plots.images import PathLike as PathLike
from jaxdiff.plots.images import check_installed as check_installed
from jaxdiff.plots.images import save_gif as save_gif
from jaxdiff.plots.images import save_grid as save_grid
from jaxdiff.plots.images import save_image as save_image
from jaxdiff.plots.images import save_samples as save_samples
from jaxdiff.plots.images import save_strip as save_strip


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Returns False for warnings of Matplotlib without a writable home folder."""
    return "MPLCONFIGDIR" not in str(record.msg) and "mkdir" not in str(record.msg)


logging.getLogger("matplotlib").addFilter(_is_worth_saying)
