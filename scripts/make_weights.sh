#!/usr/bin/env bash
# Make weights/ again: train on built-in scenes, one run a model, and pack what samples: person and car with the
# preset demo, street (places of all eight classes) with the preset places on scenes with mixed traffic.
# With the same processor, PyTorch and one thread the files are the same to the bit. 15 minutes a model.
#   ./scripts/make_weights.sh              all three
#   ./scripts/make_weights.sh person       one of them
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
install_requirements requirements.txt
export OMP_NUM_THREADS=1

.venv/bin/python -m scripts.make_streets --out datasets/streets --train 400 --val 60 --size 512x256 --num_workers 2 --erased
.venv/bin/python -m scripts.make_streets --out datasets/mixed --train 1600 --val 60 --size 512x256 --num_workers 2 --erased --mixed
for name in ${@:-person car street}; do
  run=runs/weights_$name
  if [ "$name" = street ]; then
    data=datasets/mixed
    .venv/bin/python main.py --preset places --db_root "$data" --run_dir "$run" --sample_every 0 --resume auto
  else
    data=datasets/streets
    .venv/bin/python main.py --preset demo --target_class "$name" --db_root "$data" --run_dir "$run" --sample_every 0 --resume auto
  fi
  .venv/bin/python -m scripts.pack --checkpoint "$run" --out "weights/$name.safetensors" --overwrite
  .venv/bin/python -m scripts.evaluate --checkpoint "builtin:$name" --db_root "$data" --out "$run/evaluation" --overwrite
done
