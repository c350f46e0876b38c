"""Products of vectors and matrices."""

import numpy as np

from reference.op import Op

MATRICES = {"m": 256, "k": 512, "n": 128}
"""The lengths of the axes of products of matrices in real use."""

OPS = (
    Op(name="dot", torch="torch.dot", inside="wide", formula=lambda x, y: x @ y, shapes=(((3,), (3,)), ((1,), (1,)), ((17,), (17,))), axes="n,n", batched=0),
    Op(name="matmul", torch="torch.matmul", inside="wide", formula=lambda x, y: x @ y, axes="mk,kn", sizes=MATRICES, batched=2),
    Op(
        name="einsum", torch="torch.einsum", formula=lambda x, y: np.einsum("ij,kj->ik", x, y),
        leading=("ij,kj->ik",), axes="mk,nk", sizes=MATRICES, batched=0,
    ),
    Op(name="outer", torch="torch.outer", formula=lambda x, y: x[:, None] * y, axes="m,n", sizes={"m": 64, "n": 4096}, batched=0),
    Op(name="linear", torch="torch.nn.functional.linear", inside="wide", formula=lambda x, weight, bias: x @ weight.T + bias, axes="k,nk,n", sizes=MATRICES),
)
