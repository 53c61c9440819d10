#!/usr/bin/env bash
# From nothing to a trained demo model: installs into .venv, writes the built-in street scenes, trains the
# demo preset on them, measures it, inserts new objects, and names what to look at. Run it again to go on where
# it was stopped.
#   ./scripts/quickstart.sh                    persons
#   RUN=runs/cars ./scripts/quickstart.sh --target_class car    another run folder; flags go to main.py
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

# Each program runs beside this shell, so that a signal which comes to the shell alone can be passed on. Who is
# stopped ends with a status above 128, here and there.
set -m
step() {
  "$@" &
  local program=$! status=0
  for name in INT TERM HUP; do trap "kill -s $name $program" "$name"; done
  while :; do
    wait "$program" && status=0 || status=$?
    kill -0 "$program" 2> /dev/null || break
  done
  trap - INT TERM HUP
  return "$status"
}
ended() {
  if [ "$1" -gt 128 ]; then echo "stopped: run the same script again, it goes on from there"; fi
}
trap 'ended $?' EXIT

echo "the first time this downloads PyTorch: several GB, some minutes"
install_requirements requirements.txt

data=datasets/streets
run=${RUN:-runs/quickstart}
step .venv/bin/python -m scripts.make_streets --out "$data" --train 400 --val 60 --size 512x256 --num_workers 2 --erased
step .venv/bin/python main.py --preset demo --db_root "$data" --run_dir "$run" --resume auto "$@"

step .venv/bin/python -m scripts.evaluate --checkpoint "$run" --db_root "$data" --quick --overwrite

# Into scenes that it never trained on: to be looked at, not to be trained on; hence --force.
inserted=$run/inserted
step .venv/bin/python -m scripts.insert --checkpoint "$run" --db_root "$data" --split val --force --out "$inserted" \
  --per_image 1-2 --render cutout --preview 6 --num_workers 2 --overwrite

grid=$(ls -t "$run"/samples/*.png | head -n 1)
cat <<TEXT

new objects   $inserted/preview.png
sample grid   $grid
run folder    $run
curves        .venv/bin/tensorboard --logdir $run
TEXT
