#!/bin/sh
# Export and clean the notebooks and write README.md in a copy of the tracked files: nothing may change.
set -e
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 cp --parents --no-dereference --target-directory="$copy"
cd "$copy"
git init --quiet && git add --force . && git -c user.name=check -c user.email=check@localhost commit --quiet --message copy
nbdev_export
nbdev_clean
python tools/docs.py readme
changed=$(git status --porcelain)
if [ -n "$changed" ]; then
  git --no-pager diff --stat
  echo "Error: these files differ from what the notebooks say; run nbdev_export, nbdev_clean and make readme, and commit:"
  echo "$changed"
  exit 1
fi
echo "Notebooks, modules and README.md agree."
