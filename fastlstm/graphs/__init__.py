"""Networks that are read from files as graphs of operators, and run as they are.

`plan` puts operators in order and runs them; `fusion` and `cells` make one operator of several,
`lookups` leaves rows of tables to the LSTMs that take them, `alike` plans anew for calls of the
same shapes. `model` is what a user holds. `limits` says how much memory numbers in a file may ask
for.

The other modules compute operators, which the table in `operators` finds by their names:
`elementwise`, `shapes`, `indexing`, `lists`, `reductions` and `pooling` in NumPy, `products` matrix
products and convolutions by the engines, `recurrent` LSTMs, `gru` GRUs and RNNs, `control` If, Loop
and Scan; `makers` has what these tables share. What none of them knows is computed by `reference`,
the onnx package's own evaluator. `keras_functions` computes Keras's layers.
"""

from .model import GraphModel, GraphStream, Port, State
from .plan import Node

__all__ = ["GraphModel", "GraphStream", "Node", "Port", "State"]
