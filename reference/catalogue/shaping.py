"""Functions that move elements, whose derivatives move them back."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reference.graph import Shape
from reference.op import Op


def choices(shapes: Sequence[Shape], random: np.random.Generator) -> Any:
    """Draw a mask over the last dimension, half of it true."""
    return random.permutation(np.arange(shapes[0][-1]) % 2 == 0)


def drawn_indices(shapes: Sequence[Shape], random: np.random.Generator) -> Any:
    """Draw indices into the last dimension, some more than once and out of order."""
    return random.integers(0, shapes[0][-1], shapes[0][-1])


def chosen(condition: Any, x: Any, y: Any) -> Any:
    """Return elements of the one where a condition holds, and of the other elsewhere."""
    return np.where(condition, x, y)


OPS = (
    Op(
        name="transpose", torch="torch.transpose", inside="wide", kwargs={"dim0": -2, "dim1": -1}, formula=lambda x: x.swapaxes(-2, -1),
        axes="mn", sizes={"m": 64, "n": 4096},
    ),
    Op(
        name="expand", torch="torch.broadcast_to", inside="wide", kwargs={"size": (3, 2)}, formula=lambda x: np.broadcast_to(x, (3, 2)),
        shapes=(((1, 2),), ((3, 1),), ((1, 1),)), batched=0,
    ),
    Op(name="flip", torch="torch.flip", inside="wide", kwargs={"dims": (-1,)}, formula=lambda x: x[..., ::-1], axes="n"),
    Op(
        name="where", torch="torch.where", inside="wide", contexts={"condition": choices},
        formula=chosen, axes="n,n", batched=2,
    ),
    Op(
        name="index_select", torch="torch.index_select", inside="wide", kwargs={"dim": -1}, contexts={"index": drawn_indices},
        formula=lambda x, *, index: x[..., index], axes="n",
    ),
    Op(
        name="cat", torch="torch.cat", inside="wide", kwargs={"dim": -1}, packed=True,
        formula=lambda x, y: np.concatenate([x, y], axis=-1), axes="n,m", sizes={"n": 4096, "m": 7}, batched=2,
    ),
)
