# The graph of notebook runs, from a profile to its tables. Every stage of every seed is one notebook, executed by
# papermill; the executed copies land in RUNS/<profile>/seed<k>/notebooks/. `make reproduce` calls this file; by hand, or
# on a cluster with `--executor slurm --jobs 20`:
#   snakemake --cores all --rerun-triggers mtime --rerun-incomplete --config profile=profiles/mini.yaml seeds=0
import csv, json, shlex, sys, time
from pathlib import Path
import torch
from dream_ood.runs import NOTEBOOKS, STAGES, Run, load_profile

PROFILE = config.get('profile', 'profiles/mini.yaml')
SEEDS   = [int(s) for s in str(config.get('seeds', '0,1,2')).split(',')]
RUNS    = config.get('runs', '_runs')
SHARDS  = int(config.get('shards', 1))   # parts that decoding is drawn in, beside one another

study = load_profile(PROFILE)
HOME  = Path(RUNS)/study.name
TABLE = HOME/'tables'/'table1.csv'
CLOCK = Path('.snakemake')/'now'    # newer than every artifact, and never the same: what has it as an input is run
if workflow.is_main_process:
    CLOCK.parent.mkdir(exist_ok=True)
    CLOCK.write_text(str(time.time_ns()))

# The first seed has every core, so that its table comes soon. The others then run beside one another on their share, which
# takes less time in all: much of a notebook (its imports, its pictures) keeps a single core busy. A GPU is not shared, and
# on a cluster (no number of cores) each job has a machine of its own.
CORES  = workflow.cores or 8
BESIDE = 1 if torch.cuda.is_available() or not workflow.cores else max(1, min(len(SEEDS)-1, CORES))
def share(seed): return CORES if seed == SEEDS[0] else CORES//BESIDE

# The first two stages read nothing of each other and are mostly one thread's work.
def threads_of(stage, seed): return min(share(seed), max(1, CORES//2)) if stage in ('data', 'foundation') else share(seed)

def executed(seed, notebook): return HOME/f'seed{seed}'/'notebooks'/f'{notebook}.ipynb'

def stale(seed, stage):
    "[CLOCK] if the stage has to run (not finished, made from other inputs, files missing), else nothing."
    return [] if Run(study, seed, RUNS).stage(stage).done else [CLOCK]

def stale_table():
    "[CLOCK] if the table was made from other seeds, else nothing."
    if not TABLE.exists(): return []
    with open(TABLE) as f: return [] if {int(r['seed']) for r in csv.DictReader(f)} == set(SEEDS) else [CLOCK]

def job(notebook, output, **parameters):
    "The shell command that executes a notebook; what it says goes to stdout, as stderr is the graph's."
    return shlex.join([sys.executable, 'tools/execute.py', f'nbs/{notebook}.ipynb', str(output),
                       f'profile={PROFILE}', f'runs={RUNS}', *(f'{k}={v}' for k, v in parameters.items())]) + ' 2>&1'

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

for _place, _seed in enumerate(SEEDS):                  # the first seed is finished, and shown, before the next begins
    for _stage, (_sections, _needs) in STAGES.items():
        _before = [executed(_seed, NOTEBOOKS[n]) for n in _needs]
        _parts  = [executed(_seed, f'{NOTEBOOKS[_stage]}_{i}_of_{SHARDS}') for i in range(SHARDS)] if _stage == 'decoding' and SHARDS > 1 else []
        for _shard, _part in enumerate(_parts):
            rule:
                name: f'{_stage}_{_seed}_{_shard}'
                input: _before, stale(_seed, _stage), ancient(rules.first_look.output) if _place else []
                output: _part
                message: f'== Seed {_seed}: {NOTEBOOKS[_stage]}, shard {_shard} of {SHARDS}'
                params: command=job('shards/decoding', _part, seed=_seed, shard=_shard, shards=SHARDS)
                threads: max(1, share(_seed)//SHARDS)
                priority: 2*(len(SEEDS)-_place)
                shell: '{params.command}'
        rule:
            name: f'{_stage}_{_seed}'
            input: _before, _parts, stale(_seed, _stage), ancient(rules.first_look.output) if _place else []
            output: executed(_seed, NOTEBOOKS[_stage])
            message: f'== Seed {_seed}: {NOTEBOOKS[_stage]}'
            params: command=job(NOTEBOOKS[_stage], executed(_seed, NOTEBOOKS[_stage]), seed=_seed)
            threads: threads_of(_stage, _seed)
            priority: 2*(len(SEEDS)-_place) - (_stage == 'dream_id')
            shell: '{params.command}'

# ---- `make classifier`: the first seed up to its evaluation, then nbs/09_classifier.ipynb. Dream-ID and tables are left out.
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
