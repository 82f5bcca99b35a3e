"""The openai SDK, with the router picking the model: one call, its fallbacks, and what came of it told back.

    pip install 'outcome-router[client]' openai
    ROUTER_URL=http://localhost:8080 OPENAI_BASE_URL=https://openrouter.ai/api/v1 OPENAI_API_KEY=... \\
        python openai_client.py "Monthly revenue per region, last year, as SQL."

The endpoint is any that all candidates stand behind: OpenRouter, a LiteLLM proxy, vLLM. Without the router MODEL answers.
"""

import logging
import os
import sys
import time

import openai

from serving.client import FeedbackError, RouterClient

if len(sys.argv) != 2 or any(name not in os.environ for name in ("ROUTER_URL",)):
    sys.exit(__doc__)  # how it is called
logging.basicConfig(level=logging.WARNING)
router = RouterClient(
    os.environ["ROUTER_URL"], fallback=os.environ.get("MODEL", "gpt-4o"), api_key=os.environ.get("ROUTER_API_KEY")
)
llms = openai.OpenAI(max_retries=0)  # a candidate that fails has the others behind it

body = {"messages": [{"role": "user", "content": sys.argv[1]}], "max_tokens": 500}
route = router.route({**body, "workflow": "sql"})
told = {"decision_id": route.id, "error": True}  # unless one of them answers
for model in (route.model, *route.fallbacks):
    started = time.perf_counter()
    try:
        answer = llms.chat.completions.create(model=model, **body)
    except openai.OpenAIError as error:
        print(f"{model} failed: {error}", file=sys.stderr)
        continue
    text = answer.choices[0].message.content
    print(f"{model} ({route.reason}): {text}")
    told = {
        "decision_id": route.id,
        "model": model,  # who answered
        "accepted": bool(text),  # whatever tells you that it was good: a test, a rule, a thumb
        "input_tokens": answer.usage.prompt_tokens,
        "output_tokens": answer.usage.completion_tokens,
        "latency_ms": 1000 * (time.perf_counter() - started),
    }
    break

if not route.failed:
    try:
        (result,) = router.feedback(told)
        if not isinstance(result, str):  # a problem: the router knows no such decision, or was told otherwise
            print(f"feedback was refused: {result['detail']}", file=sys.stderr)
    except FeedbackError as error:  # not known to be stored: send it again later
        print(error, file=sys.stderr)
router.close()
