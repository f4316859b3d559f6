#!/bin/sh
# Measure a machine with many cores in one go, also where nothing can be installed.
#
#     sh benchmarks/many_cores.sh FOLDER [SECONDS [COMMIT]]
#
# builds the native engine in place and measures it in some SECONDS (270 if not given): how threads
# meet, callers, running and training with 1, 2, 4, ... threads up to 16. A library that is missing
# is left out. FOLDER gets summary.md, log.txt and the results in results.tar.gz, as
# <machine>/...; COMMIT is written into them where there is no git. PYTHON names another Python.
set -u
folder=$(mkdir -p "$1" && cd "$1" && pwd) seconds=${2:-270} python=${PYTHON:-python3}
export FASTLSTM_COMMIT=${3:-} PYTHONUNBUFFERED=1
cd "$(dirname "$0")/.." || exit
begin=$(date +%s)
log=$folder/log.txt
: >"$log"

run() {  # a part of all that is measured; the others go on without it
    part=$1
    shift
    from=$(date +%s)
    "$@" >>"$log" 2>&1 || echo "$part failed: $(tail -n 3 "$log")"
    echo "$part: $(($(date +%s) - from)) s"
}
share() {  # so many hundredths of the time that is left
    echo $(((begin + seconds - $(date +%s)) * $1 / 100))
}

run "build" "$python" setup.py --quiet build_ext --inplace
machine=$("$python" -c "import benchmarks.machine as m; print(m.slug(m.describe()))") || exit
out=$folder/$machine
threads=$("$python" -c "
from benchmarks import processors
print(*(n for n in (1, 2, 4, 8, 16) if n <= processors()), sep=',')") || exit
if [ -f benchmarks/meetings.py ]; then
    run "meetings" "$python" -m benchmarks.meetings --out "$out"
fi
run "callers" "$python" -m benchmarks.callers --quick --out "$out"
run "running" "$python" -m benchmarks.compare --threads "$threads" --engines native \
    --budget "$(share 60)" --out "$out"
run "training" "$python" -m benchmarks.train --threads "$threads" --engines native \
    --only steps --budget "$(share 95)" --out "$out"

for part in meetings callers compare-scaling train-scaling; do
    if [ -f "$out/$part.md" ]; then cat "$out/$part.md"; fi
done >"$folder/summary.md"
tar -C "$folder" -czf "$folder/results.tar.gz" "$machine"
cat "$folder/summary.md"
echo "All: $(($(date +%s) - begin)) s; $folder/results.tar.gz"
