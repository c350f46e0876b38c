"""Products of vectors and matrices."""

import numpy as np

from reference.op import Op

OPS = (
    Op(name="dot", torch="torch.dot", formula=lambda x, y: x @ y, shapes=(((3,), (3,)), ((1,), (1,)), ((17,), (17,))), batched=0),
    Op(name="matmul", torch="torch.matmul", formula=lambda x, y: x @ y, shapes=(((2, 3), (3, 2)), ((1, 4), (4, 1))), batched=2),
    Op(
        name="einsum", torch="torch.einsum", formula=lambda x, y: np.einsum("ij,kj->ik", x, y, optimize=False),
        leading=("ij,kj->ik",), shapes=(((2, 3), (2, 3)), ((3, 2), (1, 2))), batched=0,
    ),
    Op(name="outer", torch="torch.outer", formula=lambda x, y: x[:, None] * y, shapes=(((3,), (2,)),), batched=0),
    Op(
        name="linear", torch="torch.nn.functional.linear", formula=lambda x, weight, bias: x @ weight.T + bias,
        shapes=(((3,), (2, 3), (2,)),),
    ),
)
