#!/usr/bin/env bash
# Make weights/ again: train the demo preset on the built-in scenes, one run a class, and pack what samples.
# With the same processor, PyTorch and one thread the files are the same to the bit. 15 minutes a class.
#   ./scripts/make_weights.sh              person and car
#   ./scripts/make_weights.sh person       one of them
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
install_requirements requirements.txt
export OMP_NUM_THREADS=1

data=datasets/streets
.venv/bin/python -m scripts.make_streets --out "$data" --train 400 --val 60 --size 512x256 --num_workers 2 --erased
for class in ${@:-person car}; do
  run=runs/weights_$class
  .venv/bin/python main.py --preset demo --target_class "$class" --db_root "$data" --run_dir "$run" --sample_every 0 --resume auto
  .venv/bin/python -m scripts.pack --checkpoint "$run" --out "weights/$class.safetensors" --overwrite
  .venv/bin/python -m scripts.evaluate --checkpoint "builtin:$class" --db_root "$data" --out "$run/evaluation" --overwrite
done
