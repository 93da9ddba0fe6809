#!/bin/sh
# Record finished runs: `sh tools/record.sh RUNS [TARGET]`.
# table1: execute the notebooks of nbs/ in place against a finished run of profiles/mini.yaml (its stages are done, so they
#   only show), keep its table and figures for the start page, and write README.md anew.
# paper: the same with the pages of `make reproduce TARGET=paper`; keep their tables and figures.
set -e
runs=${1:-_runs}
target=${2:-table1}
export TQDM_DISABLE=1 PYTHONWARNINGS=ignore   # progress bars and warnings of this machine are no part of a page
execute() { jupyter nbconvert --to notebook --execute --inplace --log-level=WARN "$@"; }
if [ "$target" = paper ]; then
  kept=nbs/paper/recorded/paper
  pages=$(python -c "from dream_ood.paper import PAPER; print(*(f'nbs/paper/{n}.ipynb' for n in [*PAPER, 'claims']))")
  execute nbs/10_paper.ipynb $pages
  mkdir -p $kept
  cp "$runs"/mini-paper/tables/* "$runs"/mini-paper/figures/* $kept/
  python tools/slim.py $pages
  nbdev_clean
  exit
fi
mkdir -p nbs/paper/recorded
cp "$runs"/mini/tables/table1.csv "$runs"/mini/tables/summary.md "$runs"/mini/figures/table1.png "$runs"/mini/figures/gallery.png nbs/paper/recorded/
python -c "
from dream_ood.decoding import gallery_data
from dream_ood.runs import Run,load_profile,save_json
save_json('nbs/paper/recorded/gallery.json', gallery_data(Run(load_profile('profiles/mini.yaml'), 0, '$runs'), per_class=8, real=8))"
execute nbs/0*.ipynb nbs/paper/table1.ipynb nbs/index.ipynb
python tools/slim.py nbs/0*.ipynb nbs/paper/table1.ipynb
nbdev_clean
nbdev_export
python tools/docs.py readme
