"""Where the hosted service's SDK has its client."""

from .._agent import Agent

__all__ = ["Agent"]
