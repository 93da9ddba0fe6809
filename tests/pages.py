"Pages of nbs/paper, executed on studies made small: what test_paper.py and test_pages_of_less.py share."
import json
from functools import lru_cache
from pathlib import Path
from execnb.nbio import dict2nb
from execnb.shell import CaptureShell
from dream_ood import stages
from dream_ood.paper import paper_home,studies
from dream_ood.runs import Run
from dream_ood.study import load_profile,read_profile

ROOT = Path(__file__).parent.parent
STAGES = [getattr(stages, f'run_{n}') for n in ('data', 'foundation', 'latent_space', 'sampling', 'decoding')]

def small_profile():
    "The smoke profile with half of its classes and fewer images to score."
    d = read_profile(ROOT/'profiles/smoke.yaml')
    d['data']['classes'] = ['tshirt','trouser','coat','boot']
    for s in d['data']['ood'].values(): s['per_class'] = 25
    d['latent_space']['epochs'] = 6     # an encoder that is wrong about a whole class has no decision boundary
    return d

def make_runs(profile, seeds, folder):
    for n,s in studies(load_profile(profile)).items():
        for seed in seeds:
            run = Run.open(s, seed, folder)
            for stage in STAGES: stage(run)
            if n != 'dream-id': stages.run_training(run); stages.run_evaluation(run)
            if n != 'ablations': stages.run_dream_id(run)
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
