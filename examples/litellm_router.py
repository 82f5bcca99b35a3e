"""LiteLLM's SDK Router, with the router picking which of its groups is called: its fallbacks, its costs, and feedback.

    pip install 'outcome-router[client]' litellm
    ROUTER_URL=http://localhost:8080 CANDIDATES=gpt-4o-mini,gpt-4o OPENAI_API_KEY=... \\
        python litellm_router.py "Monthly revenue per region, last year, as SQL."

Where a LiteLLM proxy runs, one line of its configuration does all of this instead.
"""

import asyncio
import logging
import os
import sys
import time

import litellm

from serving.client import AsyncRouterClient, FeedbackError, RouteRefusedError

if len(sys.argv) != 2 or any(name not in os.environ for name in ("ROUTER_URL", "CANDIDATES")):
    sys.exit(__doc__)  # how it is called
logging.basicConfig(level=logging.WARNING)
# Their names are the candidates'; what a provider needs stands in litellm_params, as ever.
GROUPS = [
    {"model_name": name, "litellm_params": {"model": f"openai/{name}"}} for name in os.environ["CANDIDATES"].split(",")
]


async def main(question: str) -> None:
    llms = litellm.Router(model_list=GROUPS, num_retries=0)
    fallback, key = os.environ.get("MODEL", GROUPS[-1]["model_name"]), os.environ.get("ROUTER_API_KEY")
    messages = [{"role": "user", "content": question}]
    async with AsyncRouterClient(os.environ["ROUTER_URL"], fallback=fallback, api_key=key) as router:
        names = [group["model_name"] for group in GROUPS]
        try:
            route = await router.route({"messages": messages, "workflow": "sql", "allow": names})
        except RouteRefusedError as refused:
            sys.exit(str(refused))  # who is ruled out by what; no fallback goes round it
        there = [one["model"] for one in route.document.get("candidates", ())]
        for name in names:
            if there and name not in (*there, fallback):
                print(f"CANDIDATES: {name} matches no candidate; there are {', '.join(there)}", file=sys.stderr)
        started = time.perf_counter()
        answer = await llms.acompletion(
            model=route.model, messages=messages, fallbacks=[{route.model: list(route.fallbacks)}]
        )
        who = answer._hidden_params["additional_headers"]["x-litellm-model-group"]  # a fallback, if that answered
        print(f"{who} ({route.reason}): {answer.choices[0].message.content}")
        if route.failed:
            return
        told = {
            "decision_id": route.id,
            "model": who,
            "accepted": bool(answer.choices[0].message.content),  # whatever tells you that it was good
            "cost_usd": answer._hidden_params.get("response_cost"),  # None where LiteLLM knows no price
            "input_tokens": answer.usage.prompt_tokens,
            "output_tokens": answer.usage.completion_tokens,
            "latency_ms": 1000 * (time.perf_counter() - started),
        }
        try:
            (result,) = await router.feedback(told)
            if not isinstance(result, str):
                print(f"feedback was refused: {result['detail']}", file=sys.stderr)
        except FeedbackError as error:
            print(error, file=sys.stderr)


asyncio.run(main(sys.argv[1]))
