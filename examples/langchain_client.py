"""LangChain, with the router picking the chat model: a runnable like any other, which falls back, and tells what came of it.

    pip install 'outcome-router[client]' langchain-openai
    ROUTER_URL=http://localhost:8080 OPENAI_BASE_URL=https://openrouter.ai/api/v1 OPENAI_API_KEY=... \\
        python langchain_client.py "Monthly revenue per region, last year, as SQL."
"""

import logging
import os
import sys

from langchain_core.messages import AIMessage, convert_to_openai_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI

from serving.client import FeedbackError, RouterClient

if len(sys.argv) != 2 or any(name not in os.environ for name in ("ROUTER_URL",)):
    sys.exit(__doc__)  # how it is called
logging.basicConfig(level=logging.WARNING)
router = RouterClient(
    os.environ["ROUTER_URL"], fallback=os.environ.get("MODEL", "gpt-4o"), api_key=os.environ.get("ROUTER_API_KEY")
)


def named(model: str) -> RunnableLambda:
    """A chat model that leaves its own name in the answer: the endpoint's may be another."""

    def ask(prompt: PromptValue) -> AIMessage:
        answer = ChatOpenAI(model=model, max_retries=0).invoke(prompt)
        answer.response_metadata["candidate"] = model
        return answer

    return RunnableLambda(ask)


def routed(prompt: PromptValue) -> AIMessage:
    """The answer of the candidate that the router picks, or of the next that does not fail."""
    messages = convert_to_openai_messages(prompt.to_messages())
    route = router.route({"messages": messages, "workflow": "sql"})
    chosen, *others = [named(model) for model in (route.model, *route.fallbacks)]
    answer = chosen.with_fallbacks(others).invoke(prompt)
    if not route.failed:
        usage = answer.usage_metadata or {}
        told = {
            "decision_id": route.id,
            "model": answer.response_metadata["candidate"],
            "accepted": bool(answer.content),  # whatever tells you that it was good
            "input_tokens": usage.get("input_tokens"),
            "output_tokens": usage.get("output_tokens"),
        }
        try:
            (result,) = router.feedback(told)
            if not isinstance(result, str):
                print(f"feedback was refused: {result['detail']}", file=sys.stderr)
        except FeedbackError as error:
            print(error, file=sys.stderr)
    return answer


prompt = ChatPromptTemplate.from_messages([("system", "You write SQL."), ("user", "{question}")])
chain = prompt | RunnableLambda(routed) | StrOutputParser()
print(chain.invoke({"question": sys.argv[1]}))
router.close()
