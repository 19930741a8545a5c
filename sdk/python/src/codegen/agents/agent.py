"""The names of the hosted service's SDK."""

from .._agent import Agent
from .._agent import Task as AgentTask

__all__ = ["Agent", "AgentTask"]
