# What the rules of ../Snakefile ask: which study, which marks, how many cores, and what a cluster is asked for.
import os, shlex, sys
from functools import cache
from pathlib import Path
from dream_ood.core import default_device, resolve
from dream_ood.study import load_profile
from dream_ood.runs import NOTEBOOKS, Run, STAGES, with_upstream
from dream_ood.workflow import withdraw

PROFILE = config.get('profile', 'profiles/mini.yaml')
KIND, _, ONE = config.get('target', 'table1').partition('/')
SEEDS   = [int(s) for s in str(config.get('seeds', '0,1,2')).split(',')]
RUNS    = config.get('runs', '_runs')
SHARDS  = int(config.get('shards', 1))
LESSONS = int(config.get('lessons', 1))

study = load_profile(PROFILE)
HOME, PAGES, STUDIES, PROFILES = f'{RUNS}/{study.name}', {}, {'': study}, {study.name: str(resolve(PROFILE))}
if KIND in ('paper', 'runs'):
    from dream_ood.paper import PAPER, needs, write_studies
    files = write_studies(study, RUNS)
    STUDIES = {n: load_profile(file) for n, file in files.items()}
    LESSONS = 0
    HOME, PAGES = f'{HOME}-paper', {n: needs(study, n) for n in (*PAPER, 'claims')}
    PROFILES |= {STUDIES[n].name: str(file) for n, file in files.items()}

def mark(study, seed, name): return f'{RUNS}/{study}/seed{seed}/done/{name}.json'
def marks(n, stages, seeds=SEEDS): return [mark(STUDIES[n].name, k, NOTEBOOKS[s]) for k in seeds for s in stages]

if workflow.is_main_process:
    for run in [Run(s, seed, RUNS) for s in STUDIES.values() for seed in SEEDS]: withdraw(run)
    if KIND == 'classifier':
        from dream_ood.report import is_made
        if not is_made(Run(study, SEEDS[0], RUNS)): Path(HOME, 'done', 'classifier.json').unlink(missing_ok=True)

# The first seed has every core, so that its table comes soon. The others then run beside one another on their share, as
# do all seeds of the paper's studies: much of a notebook (its imports, its pictures) keeps one core busy. A GPU is not
# shared; on a cluster (--jobs) each job has a machine of its own, where the environment says what was granted. The
# first two stages are mostly one thread's work.
CLUSTER = workflow.resource_settings.nodes is not None
GRANTED = 0 if workflow.is_main_process else int(os.environ.get('SLURM_CPUS_PER_TASK', 0))
CORES   = GRANTED or (8 if CLUSTER else workflow.cores or 8)
BESIDE  = 1 if CLUSTER or GRANTED or default_device() == 'cuda' else max(1, min(len(STUDIES)*len(SEEDS) - 1, CORES))

def share(stage, parts=1):
    def threads(w):
        if GRANTED: return GRANTED
        cores = CORES if int(w.seed) == SEEDS[0] and not PAGES else CORES//BESIDE
        return max(1, min(cores, CORES//2) if stage in ('data', 'foundation') else cores//(1 if CLUSTER else parts))
    return threads

# What a job asks of a cluster, by `asks` of dream_ood.planning; when it is tried again, more time and memory. Machines
# of one's own are not asked, and a job on its way knows already. A profile of Snakemake has the last word.
PAGE = dict(gpu=0, mem_mb=16000, runtime=120)

def named(name): return next(s for s in STUDIES.values() if s.name == name)

@cache
def estimate(name, stage, parts):
    from dream_ood import planning
    return planning.asks(named(name), stage, parts, planning.supposed(named(name), Run(named(name), SEEDS[0], RUNS)))

def asks(stage, parts=1):
    def ask(what):
        def of(wildcards, attempt):
            if not CLUSTER: return 0
            name = getattr(wildcards, 'study', study.name)
            if what == 'gpu': return int(stage != 'data' and not named(name).small)
            return attempt*estimate(name, stage, parts)[what] if workflow.is_main_process else 0
        return of
    return {what: ask(what) for what in PAGE}

def before(stage): return lambda w: [mark(w.study, w.seed, NOTEBOOKS[s]) for s in STAGES[stage][1]]
def parts(stage):
    shards = range(SHARDS if SHARDS > 1 and stage == 'decoding' else 0)
    return lambda w: [mark(w.study, w.seed, f'{NOTEBOOKS[stage]}-{i}') for i in shards]

FIRST = [f'{HOME}/seed{SEEDS[0]}/done/table1.md'] if KIND == 'table1' and len(SEEDS) > 1 else []
def looked(stage):
    """The first seed is finished, and its table shown, before anything begins that this table does not need. Of the
    paper's studies one waits for those before it, so that what they share is made once; on a cluster, and where there
    are fewer seeds than jobs beside one another, not for its long stages."""
    def first(w):
        if Path(mark(w.study, w.seed, NOTEBOOKS[stage])).exists(): return []
        if not PAGES: return [] if int(w.seed) == SEEDS[0] and stage != 'dream_id' else FIRST
        if stage not in SHARED[:None if len(SEEDS) >= BESIDE and not CLUSTER else 3]: return []
        names = [s.name for s in STUDIES.values()]
        there = (mark(n, w.seed, NOTEBOOKS[stage]) for n in names[:names.index(w.study)])
        return [m for m in there if m in ASKED]
    return first

# What a classifier is made from: of one's own images no study is trained, and nothing dreamt unless dreams compete.
UP_TO = with_upstream([] if study.own and not study.own.outliers else ['decoding' if study.own else 'evaluation'])

def asked(kind):
    "What a target is, and every mark on the way to it: Snakemake makes a missing one only if it is asked for."
    if kind == 'table1': return [f'{HOME}/tables/table1.csv', *marks('', STAGES)]
    if kind == 'classifier': return [f'{HOME}/done/classifier.json', *marks('', UP_TO, SEEDS[:1])]
    if kind == 'runs': return marks(ONE, with_upstream(s for p in PAGES.values() for s in p.get(ONE, [])))
    pages = [ONE] if ONE in PAGES else [p for p in PAGES if p != 'claims']
    found = [m for p in pages for n, stages, seeds in behind(p) for m in marks(n, with_upstream(stages), seeds)]
    return [f'{HOME}/notebooks/{ONE or "claims"}.ipynb', *found]

def behind(page):
    "The studies that a page reads, their last stages, and of which seeds."
    if page != 'claims': return [(n, stages, SEEDS) for n, stages in PAGES[page].items()]
    others = [(n, stages) for p in PAGES if p != 'claims' for n, stages in PAGES[p].items()]
    whole = [k for k in SEEDS if all(Path(m).exists() for n, stages in others for m in marks(n, stages, [k]))]
    return ([(n, stages, whole) for n, stages in others]
            + [(n, stages, [k for k in SEEDS if k not in whole]) for n, stages in PAGES[page].items()])

def read(w):
    "What a page reads: stages of studies. That of claims comes after the pages where these are asked for, too."
    if w.page == 'claims' and not ONE: return [f'{HOME}/notebooks/{page}.ipynb' for page in PAGES if page != 'claims']
    return [m for n, stages, seeds in behind(w.page) for m in marks(n, stages, seeds)]

ASKED = {*asked(KIND)} if PAGES else {}
SHARED = [s for s in STAGES if s not in ('dream_id', 'evaluation')]

def profile(w): return PROFILES[w.study]

def job(notebook, words, copy='{log:q}'):
    "The shell command that executes a notebook. It ends when this process is no more."
    return (f'{shlex.quote(sys.executable)} -m dream_ood execute --caller {os.getpid()} {notebook}.ipynb {copy}'
            f' profile={{input.profile:q}} runs={{RUNS:q}} {words}')

NBS, SEED = resolve('nbs'), '{wildcards.study}, seed {wildcards.seed}' if PAGES else 'Seed {wildcards.seed}'
