"""AssembleNet: the graphs, the network built from one, and the flow that feeds it."""

from baselines.assemblenet.graph import ASSEMBLENET_50, ASSEMBLENET_101, Graph, GraphError, Node
from baselines.assemblenet.network import assemblenet

__all__ = ["ASSEMBLENET_50", "ASSEMBLENET_101", "Graph", "GraphError", "Node", "assemblenet"]
