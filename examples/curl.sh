#!/bin/sh
# The router from a shell: ask for the model, call it, tell what came of it. Without the router $MODEL answers.
#   ROUTER_URL=http://localhost:8080 OPENAI_BASE_URL=https://openrouter.ai/api/v1 OPENAI_API_KEY=... \
#       sh curl.sh '[{"role": "user", "content": "Monthly revenue per region, last year, as SQL."}]'
set -eu
: "${ROUTER_URL:?the address of the router, as http://localhost:8080}" "${1:?the messages, as JSON}"

field() { # the field of a JSON document that $1 names, or $2
    python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1], sys.argv[2]))' "$1" "$2"
}

route=$(curl --silent --fail --max-time 0.5 "$ROUTER_URL/v1/route" \
    -H 'Content-Type: application/json' -d "{\"messages\": $1, \"workflow\": \"sql\"}") || route='{}'
model=$(printf '%s' "$route" | field model "${MODEL:-gpt-4o}")
decision=$(printf '%s' "$route" | field id '')

curl --silent --show-error --fail "$OPENAI_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
    -d "{\"model\": \"$model\", \"messages\": $1}" && accepted=true || accepted=false

if [ -n "$decision" ]; then
    curl --silent --show-error --fail --max-time 15 "$ROUTER_URL/v1/feedback" -H 'Content-Type: application/json' \
        -d "{\"decision_id\": \"$decision\", \"accepted\": $accepted}" --output /dev/null
fi
