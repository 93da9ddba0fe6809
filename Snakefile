# The graph of notebook runs, from a profile to its tables. Every stage of every seed is one notebook, executed by
# papermill; the executed copies land in RUNS/<profile>/seed<k>/notebooks/. `make reproduce` calls this file; by hand, or
# on a cluster with `--executor slurm --jobs 20`:
#   snakemake --cores all --rerun-triggers mtime --rerun-incomplete --config profile=profiles/mini.yaml seeds=0
import csv, json, shlex, sys, time
from pathlib import Path
import torch
from dream_ood.core import load_json, nice, save_json
from dream_ood.study import load_profile
from dream_ood.runs import NOTEBOOKS, Run, STAGES

PROFILE = config.get('profile', 'profiles/mini.yaml')
TARGET  = config.get('target', 'table1')   # or 'paper': every table and figure of nbs/paper; paper/PAGE: one of them; runs/STUDY: the runs of a study behind them
SEEDS   = [int(s) for s in str(config.get('seeds', '0,1,2')).split(',')]
RUNS    = config.get('runs', '_runs')
SHARDS  = int(config.get('shards', 1))   # parts that decoding is drawn in, beside one another

study = load_profile(PROFILE)
HOME  = Path(RUNS)/study.name
PARTS = {'': (PROFILE, study)}      # study -> its profile: one, or those behind the paper's tables and figures
if TARGET.partition('/')[0] in ('paper', 'runs'):
    HOME = Path(RUNS)/f'{study.name}-paper'
    if workflow.is_main_process:    # the jobs read what it found: importing the library takes longer than that
        from dream_ood.paper import PAPER, needs, write_studies
        save_json(HOME/'graph.json', dict(pages={n: needs(study, n) for n in PAPER}, studies={n: nice(path) for n, path in write_studies(study, RUNS).items()}))
    GRAPH = load_json(HOME/'graph.json')
    PARTS = {n: (path, load_profile(path)) for n, path in GRAPH['studies'].items()}
TABLE = HOME/'tables'/'table1.csv'
CLOCK = Path('.snakemake')/'now'    # newer than every artifact, and never the same: what has it as an input is run
if workflow.is_main_process:
    CLOCK.parent.mkdir(exist_ok=True)
    CLOCK.write_text(str(time.time_ns()))

# The first seed has every core, so that its table comes soon. The others then run beside one another on their share, which
# takes less time in all: much of a notebook (its imports, its pictures) keeps a single core busy. So do all seeds of the
# paper's studies. A GPU is not shared, and on a cluster (no number of cores) each job has a machine of its own.
CORES  = workflow.cores or 8
BESIDE = 1 if torch.cuda.is_available() or not workflow.cores else max(1, min(len(PARTS)*len(SEEDS)-1, CORES))
def share(seed): return CORES if seed == SEEDS[0] and '' in PARTS else CORES//BESIDE

# The first two stages read nothing of each other and are mostly one thread's work.
def threads_of(stage, seed): return min(share(seed), max(1, CORES//2)) if stage in ('data', 'foundation') else share(seed)

def executed(seed, notebook, study=study): return Path(RUNS)/study.name/f'seed{seed}'/'notebooks'/f'{notebook}.ipynb'

def stale(seed, stage, study=study):
    "[CLOCK] if the stage has to run (not finished, made from other inputs, files missing), else nothing."
    return [] if Run(study, seed, RUNS).stage(stage).done else [CLOCK]

def stale_table():
    "[CLOCK] if the table was made from other seeds, else nothing."
    if not TABLE.exists(): return []
    with open(TABLE) as f: return [] if {int(r['seed']) for r in csv.DictReader(f)} == set(SEEDS) else [CLOCK]

def job(notebook, output, profile=PROFILE, **parameters):
    "The shell command that executes a notebook; what it says goes to stdout, as stderr is the graph's."
    return shlex.join([sys.executable, 'tools/execute.py', f'nbs/{notebook}.ipynb', str(output),
                       f'profile={profile}', f'runs={RUNS}', *(f'{k}={v}' for k, v in parameters.items())]) + ' 2>&1'

if '' in PARTS:
    rule first_look:
        input: executed(SEEDS[0], NOTEBOOKS['evaluation'])
        output: executed(SEEDS[0], 'table1')
        message: f'== A first look: Table 1 of seed {SEEDS[0]} alone'
        params: command=job('paper/table1', executed(SEEDS[0], 'table1'), seeds=SEEDS[:1])
        threads: CORES
        priority: 100
        shell: '{params.command}'

    rule tables:
        default_target: True
        input: [executed(s, NOTEBOOKS[t]) for s in SEEDS for t in ('evaluation', 'dream_id')], rules.first_look.output if len(SEEDS) > 1 else [], stale_table()
        output: TABLE, HOME/'tables'/'table1.md', HOME/'tables'/'summary.md', HOME/'figures'/'gallery.png', HOME/'notebooks'/'table1.ipynb'
        message: f'== Table 1 of {study.name}, seeds {", ".join(map(str, SEEDS))}'
        params: command=job('paper/table1', HOME/'notebooks'/'table1.ipynb', seeds=SEEDS)
        shell: '{params.command}'
else:
    def read(stages): return [executed(s, NOTEBOOKS[t], PARTS[n][1]) for n, ts in stages.items() for t in ts for s in SEEDS]
    def page(name): return HOME/'notebooks'/f'{name}.ipynb'
    def stamp(name): return HOME/'seeds'/f'{name}-{"-".join(map(str, SEEDS))}'      # a page of other seeds is made anew
    def making(name): return f'rm -f {shlex.quote(str(HOME/"seeds"/name))}-* && {job(f"paper/{name}", page(name), seeds=SEEDS)} && touch {shlex.quote(str(stamp(name)))}'

    for _name, _stages in GRAPH['pages'].items():
        rule:
            name: f'page_{_name}'
            input: read(_stages), f'nbs/paper/{_name}.ipynb'
            output: page(_name), stamp(_name)
            message: f'== {study.name}: paper/{_name}, seeds {", ".join(map(str, SEEDS))}'
            params: command=making(_name)
            shell: '{params.command}'

    rule claims:
        input: [page(n) for n in GRAPH['pages']], 'nbs/paper/claims.ipynb'
        output: page('claims'), stamp('claims')
        message: f"== {study.name}: the paper's claims, and what we found"
        params: command=making('claims')
        shell: '{params.command}'

    def asked(kind, one):
        "What the target is: all pages, one of them, or the runs of a study."
        if kind == 'runs': return read({one: sorted({t for stages in GRAPH['pages'].values() for t in stages.get(one, ())})})
        return [page(one), stamp(one)] if one else rules.claims.output

    rule paper:
        default_target: True
        input: asked(*TARGET.partition('/')[::2])

# In the default study the first seed is finished, and shown, before the next begins.
for _key, (_profile, _study) in PARTS.items():
  for _place, _seed in enumerate(SEEDS):
    _called = f'{_key}, seed {_seed}' if _key else f'Seed {_seed}'
    _after  = ancient(rules.first_look.output) if _place and not _key else []
    for _stage, (_sections, _needs) in STAGES.items():
        _before = [executed(_seed, NOTEBOOKS[n], _study) for n in _needs]
        _parts  = [executed(_seed, f'{NOTEBOOKS[_stage]}_{i}_of_{SHARDS}', _study) for i in range(SHARDS)] if _stage == 'decoding' and SHARDS > 1 else []
        _name   = f'{_key}_{_stage}_{_seed}' if _key else f'{_stage}_{_seed}'
        for _shard, _part in enumerate(_parts):
            rule:
                name: f'{_name}_{_shard}'
                input: _before, stale(_seed, _stage, _study), _after
                output: _part
                message: f'== {_called}: {NOTEBOOKS[_stage]}, shard {_shard} of {SHARDS}'
                params: command=job('shards/decoding', _part, _profile, seed=_seed, shard=_shard, shards=SHARDS)
                threads: max(1, share(_seed)//SHARDS)
                priority: 2*(len(SEEDS)-_place)
                shell: '{params.command}'
        rule:
            name: _name
            input: _before, _parts, stale(_seed, _stage, _study), _after
            output: executed(_seed, NOTEBOOKS[_stage], _study)
            message: f'== {_called}: {NOTEBOOKS[_stage]}'
            params: command=job(NOTEBOOKS[_stage], executed(_seed, NOTEBOOKS[_stage], _study), _profile, seed=_seed)
            threads: threads_of(_stage, _seed)
            priority: 2*(len(SEEDS)-_place) - (_stage == 'dream_id')
            shell: '{params.command}'

# ---- `make classifier`: the first seed up to its evaluation, then nbs/09_classifier.ipynb. Dream-ID and tables are left out.
if '' in PARTS:
    def stale_classifier():
        "[CLOCK] if the classifier is not whole, or of another seed or evaluation, else nothing."
        folder, result = HOME/'classifier', Run(study, SEEDS[0], RUNS).stage('evaluation')._read('provenance.json').get('result')
        try: made = json.loads((folder/'classifier.json').read_text())['made_from']
        except (OSError, ValueError, LookupError, TypeError): return [CLOCK]
        whole = all((folder/f).is_file() for f in ('classifier.safetensors', 'report.html'))
        return [] if whole and (made.get('seed'), made.get('evaluation')) == (SEEDS[0], result) else [CLOCK]

    rule classifier:
        input: executed(SEEDS[0], NOTEBOOKS['evaluation']), stale_classifier()
        output: HOME/'notebooks'/'classifier.ipynb'
        message: f'== The classifier of {study.name}, seed {SEEDS[0]}'
        params: command=job('09_classifier', HOME/'notebooks'/'classifier.ipynb', seed=SEEDS[0])
        threads: CORES
        shell: '{params.command}'
