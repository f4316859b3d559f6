"""Networks that are read from files as graphs of operators, and run as they are.

`plan` puts operators in order and runs them. `model` is what a user holds. The other modules
compute operators: `operators` those of arrays in NumPy, `products` matrix products and
convolutions, `recurrent` LSTMs, `control` If, Loop and Scan. What none of them knows is computed by
`reference`, the onnx package's own evaluator. `keras_functions` computes Keras's layers. `limits`
says how much memory numbers in a file may ask for.
"""

from .model import GraphModel, GraphStream, Port, State
from .plan import Node

__all__ = ["GraphModel", "GraphStream", "Node", "Port", "State"]
