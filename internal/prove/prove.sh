#!/usr/bin/env bash
# Runs every proof in full, one after another, and says of each what it did, with
# which seed, and how long it took. SEED=n repeats a run. ONLY=pattern runs the
# proofs whose names match.
set -uo pipefail
cd "$(dirname "$0")/../.."
seed=${SEED:-$((RANDOM * 32768 + RANDOM))}
export USHER_PROVE=full USHER_SEED=$seed
echo "seed $seed (make prove SEED=$seed does the same again)"
began=$SECONDS failed=0

# prove NAME DIR PACKAGE PATTERN
prove() {
  if [[ -n ${ONLY:-} && ! $1 =~ $ONLY ]]; then return; fi
  local from=$SECONDS out code
  out=$(cd "$2" && go test -count=1 -timeout 20m -v -run "$4" "$3" 2>&1)
  code=$?
  if [[ $code != 0 ]]; then
    failed=$((failed + 1))
    tail -n 200 <<<"$out" | cut -c1-4000
    echo "FAILED  $1"
    return
  fi
  echo "passed  $1 ($((SECONDS - from)) s)"
  # What the tests log: counts; of the planted bugs the total alone.
  grep -E '^ +[a-z0-9_]+_test\.go:[0-9]+: |^ *--- SKIP' <<<"$out" | sed -E 's/^ +[a-z0-9_]+_test\.go:[0-9]+: /        /' | grep -vE '^ +seed [0-9]+$|caught by'
  return 0
}

prove 'the arithmetic, against a slow and obvious reference' . ./engine 'Model'
prove 'windows tile the line in every zone' . ./internal/calendar 'TestI8'
prove 'engine, HTTP and both databases answer the same' . ./internal/prove 'TestI7'
prove 'two environments never see each other' . ./internal/prove 'TestI10'
prove 'storms' . ./internal/prove 'Storm'
prove 'kill -9, lost connections' . ./internal/prove 'TestKill|TestDisconnect'
prove 'the database is killed, vanishes, fails over' . ./internal/prove 'TestDatabase|TestFailover'
prove 'power cuts, failing and full disks' internal/powercut ./... '.'
prove 'planted bugs are caught' . ./internal/prove 'TestPlanted'

echo "$((SECONDS - began)) s in all, $failed failed"
[[ $failed == 0 ]]
