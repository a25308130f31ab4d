"""Small networks, one for each structure that discovery has to see through.

Each is a function of (params, x), the shapes of its parameters, the shape of its input, and the
sizes of the spaces that a careful person would find in it.
"""

from tests.zigs.structures import attention, blocked, control_flow, feed_forward
from tests.zigs.structures.structure import STRUCTURES

__all__ = ["STRUCTURES", "attention", "blocked", "control_flow", "feed_forward"]
