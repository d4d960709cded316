#!/bin/sh
# The API with curl: score a payment, say what it turned out to be, look things up.
# Needs a running service (`tidegate dev`); TIDEGATE_API and TIDEGATE_KEY say where and who.
set -eu
API=${TIDEGATE_API:-http://127.0.0.1:8080}
ID=${1:-t-$(date +%s)}

call() { # curl that fails on errors, yet shows their problem details
    curl --silent --show-error --fail-with-body --max-time 40 \
        ${TIDEGATE_KEY:+--header "Authorization: Bearer $TIDEGATE_KEY"} "$@" || { echo; return 1; }
    echo
}

# the answer is the committed verdict, or 202 when it is not there within the deadline
call "$API/v1/score?deadline_ms=30000" --header 'Content-Type: application/json' --data "{
  \"transaction_id\": \"$ID\", \"event_time\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\",
  \"account_id\": \"4929-1\", \"merchant_id\": \"m-7\", \"amount\": 42.5}"

# a chargeback comes in
call "$API/v1/labels" --header 'Content-Type: application/json' \
    --data "{\"id\": \"$ID\", \"label\": 1, \"source\": \"chargeback\"}"

# the newest verdicts on the same account; its number is hashed before anything is looked up
call --get "$API/v1/verdicts" --data-urlencode 'entity=account_id:4929-1' --data limit=5

# a wrong event: the answer names field, reason and remedy, and curl ends with an error
if call "$API/v1/score" --header 'Content-Type: application/json' --data '{"transaction_id": "t-x"}'; then
    echo "this event should have been refused" >&2
    exit 1
fi
