#!/usr/bin/env bash
# Runs every proof at full size, two at a time, and prints what each did and how
# long it took. SEED=n repeats the random choices of an earlier run.
# ONLY=pattern runs only the proofs whose names match.
set -uo pipefail
cd "$(dirname "$0")/../.."
seed=${SEED:-$((RANDOM * 32768 + RANDOM))}
export USHER_PROVE=full USHER_SEED=$seed
echo "seed $seed (make prove SEED=$seed repeats the random choices)"
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
    # Print what the tests log, and only the total of the planted bugs.
    text=$(echo "passed  $1 ($((SECONDS - from)) s)"
      grep -E '^ +[a-z0-9_]+_test\.go:[0-9]+: |^ *--- SKIP' <<<"$out" | sed -E 's/^ +[a-z0-9_]+_test\.go:[0-9]+: /        /' |
        grep -vE '^ +seed "?[0-9]+"?$|caught by' | cut -c1-400)
  fi
  (flock 9; echo "$text") 9>"$dir/lock"
}

{
  prove 'storms' . ./internal/prove 'Storm'
  prove 'the engine agrees with a slow and simple reference' . ./internal/engine 'I1_Model'
  prove 'windows follow each other without gap or overlap in every zone' . ./internal/calendar 'TestI8'
  prove 'engine, HTTP and both databases give the same answers' . ./internal/prove 'TestI7'
  prove 'no environment sees anything of another' . ./internal/prove 'TestI10'
  prove 'every API gives the same answer about a member' . ./internal/prove 'TestA11'
  prove 'casbin and Cedar make the same decisions' internal/oracles ./access '.'
  prove 'every role on every route in every environment' . ./internal/api 'Matrix|TimesRoutes|TestKeysOfOne'
  prove 'tampering with the audit log is detected' . ./internal/store 'TestAudit'
} &
{
  prove 'kill -9 and lost connections lose nothing' . ./internal/prove 'TestKill|TestDisconnect'
  prove 'the database is killed, goes away, fails over; a node lags behind' . ./internal/prove 'TestDatabase|TestFailover|TestLagging'
  prove 'power cuts, failing disks and full disks' internal/powercut ./... '.'
  prove 'planted bugs are caught' . ./internal/prove 'TestPlanted'
} &
wait

failed=0
if [[ -e $dir/failed ]]; then failed=$(wc -l <"$dir/failed"); fi
echo "$((SECONDS - began)) s in total, $failed failed"
[[ $failed == 0 ]]
