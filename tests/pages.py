"Pages of nbs/paper, executed on studies made small: what test_paper.py and test_pages_of_less.py share."
import json,shutil
from functools import lru_cache,partial
from pathlib import Path
from unittest.mock import patch
from execnb.nbio import dict2nb
from execnb.shell import CaptureShell
from sklearn import manifold
from dream_ood import evaluation,paper,stages,training
from dream_ood.core import load_json
from dream_ood.paper import paper_home,studies
from dream_ood.runs import Run
from dream_ood.study import load_profile,read_profile

ROOT = Path(__file__).parent.parent
STAGES = ['data', 'foundation', 'latent_space', 'sampling', 'decoding']
QUICK = partial(training.fit_phi, steps=20)     # φ's fit before training: 20 steps, not 200
MAP = partial(manifold.TSNE, max_iter=250)  # the fewest that it takes, not 1000
# Two values of each setting that is tuned, not up to six.
SHORT = {d: {k: v[:2] for k,v in grid.items()} for d,grid in evaluation.GRIDS.items()}

def fewer(p, axes=paper.axes):
    "What the ablations vary, of numbers the least and the most."
    return {a: {k: v for k,v in of.items() if isinstance(k, str) or k in (min(of),max(of))} for a,of in axes(p).items()}

def small_profile():
    "The smoke profile with half of its classes and few images to score: pages and tables ask how, not how well."
    d = read_profile(ROOT/'profiles/smoke.yaml')
    d['data']['classes'] = ['tshirt','trouser','coat','boot']
    for s in ('digits','symbols'): d['data']['ood'].pop(s)     # photographs, textures and faces are far, too
    for s in d['data']['ood'].values(): s['per_class'] = 10
    d['data']['image_size'] = 16
    for s in ('validation','test'): d['data'][s]['per_class'] = 12
    for s in ('wide','validation_outliers'): d['data'][s]['per_class'] = 1
    d['data']['train_per_class'] = 40
    d['decoding']['steps'] = 1
    d['latent_space']['epochs'] = 8     # an encoder that is wrong about a whole class has no decision boundary
    return d

def finish(run, names):
    "Run stages; what another run beside this one has made from the very same inputs is copied."
    for n in names:
        stage = run.stage(n); key = stage.key
        twin = next((f.parent for f in run.folder.parent.parent.glob(f'*/seed{run.seed}/{n}/provenance.json')
                     if load_json(f)['key'] == key), None)
        if twin and not stage.folder.exists(): shutil.copytree(twin, stage.folder)
        with (patch.object(training, 'fit_phi', QUICK), patch.object(manifold, 'TSNE', MAP),
              patch.dict(evaluation.GRIDS, SHORT)):
            getattr(stages, f'run_{n}')(run)

def make_runs(profile, seeds, folder):
    for n,s in studies(load_profile(profile)).items():
        if n.startswith('claims'): continue     # a seed that has the others has no need of them
        for seed in seeds:
            finish(Run.open(s, seed, folder), [*STAGES, *(['training','evaluation'] if n != 'dream-id' else []),
                                               *(['dream_id'] if n != 'ablations' else [])])
    return folder

@lru_cache
def executed(name, profile, runs, seeds):
    "A page executed once, in this process, where its imports are there: its cells, and the files it made."
    home = paper_home(load_profile(profile), runs); before = set(home.rglob('*'))
    nb = json.loads((ROOT/'nbs/paper'/f'{name}.ipynb').read_text())
    for c in nb['cells']:
        c['outputs'] = []
        if 'parameters' in c['metadata'].get('tags',[]):
            c['source'] = f'profile,seeds,runs = {str(profile)!r},{list(seeds)},{str(runs)!r}'
    nb = dict2nb(nb)
    CaptureShell().run_all(nb, exc_stop=True)
    return nb.cells,{f.relative_to(home).as_posix() for f in set(home.rglob('*'))-before if f.is_file()}
