"""Functions that move elements: their derivative moves them back."""

import numpy as np

from reference.op import Op

OPS = (
    Op(name="transpose", torch="torch.transpose", kwargs={"dim0": -2, "dim1": -1}, formula=lambda x: x.swapaxes(-2, -1), shapes=(((2, 3),),)),
    Op(
        name="expand", torch="torch.broadcast_to", kwargs={"size": (3, 2)}, formula=lambda x: np.broadcast_to(x, (3, 2)),
        shapes=(((1, 2),), ((3, 1),), ((1, 1),)), batched=0,
    ),
    Op(name="flip", torch="torch.flip", kwargs={"dims": (-1,)}, formula=lambda x: x[..., ::-1], shapes=(((3,),),)),
    Op(
        name="where", torch="torch.where", keywords=("input", "other"), constants={"condition": (True, False, True)},
        formula=lambda x, y: np.stack([x[..., 0], y[..., 1], x[..., 2]], axis=-1), shapes=(((3,), (3,)),), batched=2,
    ),
    Op(
        name="index_select", torch="torch.index_select", kwargs={"dim": -1}, constants={"index": (2, 0, 2)},
        formula=lambda x: x[..., [2, 0, 2]], shapes=(((3,),),),
    ),
    Op(
        name="cat", torch="torch.cat", kwargs={"dim": -1}, packed=True,
        formula=lambda x, y: np.concatenate([x, y], axis=-1), shapes=(((2,), (1,)),), batched=2,
    ),
)
