"""What records of a dataset look like, known from its configuration without reading a file."""

from __future__ import annotations

from fedprivacy.config.schema import BreastDensityConf, DatasetConf, HiggsConf, IxiConf
from fedprivacy.data.base import Task

WISCONSIN_FEATURES = 30
HIGGS_FEATURES = 28


def record_shape(conf: DatasetConf) -> tuple[int, ...]:
    """Shape of one record without the batch axis, channels first."""
    if isinstance(conf, IxiConf):
        return (1, *conf.shape)
    if isinstance(conf, BreastDensityConf):
        return (1, conf.image_size, conf.image_size)
    return (HIGGS_FEATURES if isinstance(conf, HiggsConf) else WISCONSIN_FEATURES,)


def task_of(conf: DatasetConf) -> Task:
    """What a model predicts on this dataset."""
    if isinstance(conf, IxiConf):
        return "segmentation"
    return "multiclass" if isinstance(conf, BreastDensityConf) else "binary"
