#!/bin/sh
# Record a finished run of profiles/mini.yaml: execute the notebooks of nbs/ in place against it (its stages are done, so
# they only show), keep its table and figures for the start page, and write README.md anew.
set -e
runs=${1:-_runs}
export TQDM_DISABLE=1 PYTHONWARNINGS=ignore   # progress bars and warnings of this machine are no part of a page
mkdir -p nbs/paper/recorded
cp "$runs"/mini/tables/table1.csv "$runs"/mini/tables/summary.md "$runs"/mini/figures/table1.png "$runs"/mini/figures/gallery.png nbs/paper/recorded/
python -c "
from dream_ood.decoding import gallery_data
from dream_ood.runs import Run,load_profile,save_json
save_json('nbs/paper/recorded/gallery.json', gallery_data(Run(load_profile('profiles/mini.yaml'), 0, '$runs'), per_class=8, real=8))"
for notebook in nbs/0*.ipynb nbs/paper/table1.ipynb nbs/index.ipynb; do
  jupyter nbconvert --to notebook --execute --inplace --log-level=WARN "$notebook"
done
python tools/slim.py nbs/0*.ipynb nbs/paper/table1.ipynb
nbdev_clean
nbdev_export
python tools/docs.py readme
