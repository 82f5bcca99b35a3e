"""Langfuse: each decision and what it cost written onto the trace of its call."""

from serving.integrations.langfuse.ids import call_ids
from serving.integrations.langfuse.sink import LangfuseSink, langfuse_sink_of

__all__ = ["LangfuseSink", "call_ids", "langfuse_sink_of"]
