#!/usr/bin/env bash
# Runs every proof in full, in two lanes at once, and says of each what it did,
# with which seed, and how long it took. SEED=n makes the same choices again.
# ONLY=pattern runs the proofs whose names match.
set -uo pipefail
cd "$(dirname "$0")/../.."
seed=${SEED:-$((RANDOM * 32768 + RANDOM))}
export USHER_PROVE=full USHER_SEED=$seed
echo "seed $seed (make prove SEED=$seed makes the same choices again)"
began=$SECONDS
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT

# prove NAME DIR PACKAGE PATTERN
prove() {
  if [[ -n ${ONLY:-} && ! $1 =~ $ONLY ]]; then return; fi
  local from=$SECONDS out code text
  out=$(cd "$2" && go test -count=1 -timeout 20m -v -run "$4" "$3" 2>&1)
  code=$?
  if [[ $code != 0 ]]; then
    echo "$1" >>"$dir/failed"
    text=$(tail -n 200 <<<"$out" | cut -c1-4000; echo "FAILED  $1")
  else
    # What the tests log: counts; of the planted bugs the total alone.
    text=$(echo "passed  $1 ($((SECONDS - from)) s)"
      grep -E '^ +[a-z0-9_]+_test\.go:[0-9]+: |^ *--- SKIP' <<<"$out" | sed -E 's/^ +[a-z0-9_]+_test\.go:[0-9]+: /        /' |
        grep -vE '^ +seed "?[0-9]+"?$|caught by' | cut -c1-400)
  fi
  (flock 9; echo "$text") 9>"$dir/lock"
}

{
  prove 'storms' . ./internal/prove 'Storm'
  prove 'the arithmetic, against a slow and obvious reference' . ./internal/engine 'I1_Model'
  prove 'windows tile the line in every zone' . ./internal/calendar 'TestI8'
  prove 'engine, HTTP and both databases answer the same' . ./internal/prove 'TestI7'
  prove 'two environments never see each other' . ./internal/prove 'TestI10'
  prove 'every door gives the same answer about a member' . ./internal/prove 'TestA11'
  prove 'casbin and Cedar decide the same' internal/oracles ./access '.'
  prove 'roles times routes times environments' . ./internal/api 'Matrix|TimesRoutes|TestKeysOfOne'
  prove 'tampering with the audit log is found' . ./internal/store 'TestAudit'
} &
{
  prove 'kill -9, lost connections' . ./internal/prove 'TestKill|TestDisconnect'
  prove 'the database is killed, vanishes, fails over; a node lags' . ./internal/prove 'TestDatabase|TestFailover|TestLagging'
  prove 'power cuts, failing and full disks' internal/powercut ./... '.'
  prove 'planted bugs are caught' . ./internal/prove 'TestPlanted'
} &
wait

failed=0
if [[ -e $dir/failed ]]; then failed=$(wc -l <"$dir/failed"); fi
echo "$((SECONDS - began)) s in all, $failed failed"
[[ $failed == 0 ]]
