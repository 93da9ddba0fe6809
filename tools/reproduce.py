"""Run the graph of notebooks for one profile, or for one row of its table, then show that: `python tools/reproduce.py PROFILE SEEDS RUNS [ROW] [TARGET]`.

TARGET is `table1`, `paper` (every table and figure of nbs/paper), `paper/PAGE` (one of them), or `runs/STUDY` (the runs of a study behind them)."""
import fcntl, os, re, subprocess, sys
from contextlib import suppress
from pathlib import Path

import psutil, yaml
from dream_ood.core import DreamError, atomic, nice, resolve
from dream_ood.study import load_profile, only
from dream_ood.runs import NOTEBOOKS, Run

CALL = 'DREAM_OOD_CALL'   # in the environment of what a call starts: its process
OPTIONS = ['--cores', 'all', '--rerun-triggers', 'mtime', '--rerun-incomplete', '--keep-incomplete', '--nolock']


def lock(home):
    "Hold the study's folder: two calls at once would do the same work twice. The system frees it however this process ends."
    file = open(home/'.lock', 'w')
    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: raise DreamError(f'Another `make reproduce` is at work in {str(home)!r}: wait for it, or end it first.') from None
    return file


def adrift(process):
    "Is the call that it works for gone? What was started otherwise, as by snakemake by hand, is left alone."
    caller = process.environ().get(CALL, '')
    try: return bool(caller) and not {'tools/reproduce.py', 'tools/classifier.py'} & set(psutil.Process(int(caller)).cmdline())
    except psutil.NoSuchProcess: return True


def end_orphans(profiles, runs):
    "End what a killed call left running here."
    profiles = {f'profile={p}' for p in profiles}
    for p in psutil.process_iter(['cmdline', 'cwd']):
        words = p.info['cmdline'] or []
        ours = profiles & set(words) and f'runs={runs}' in words and {'snakemake', 'tools/execute.py'} & set(words)
        with suppress(psutil.NoSuchProcess):
            if not (ours and p.info['cwd'] == os.getcwd() and adrift(p)): continue
            print(f'An earlier call was killed and left process {p.pid} behind: ending it.')
            for child in [*p.children(recursive=True), p]:
                with suppress(psutil.NoSuchProcess): child.kill()


def graph(profile, seeds, runs, home, target='table1'):
    "Run snakemake up to a target, and say only what a reader needs: which notebook is next, or that there is nothing to do."
    rule = [target] if target == 'classifier' else []
    command = [sys.executable, '-m', 'snakemake', *rule, *OPTIONS, '--config', f'profile={profile}', f'seeds="{seeds}"', f'runs={runs}', f'target={target}']
    said, total, done, at, failed = [], 0, 0, '', ''
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {CALL: str(os.getpid())}) as p:
        for line in p.stderr:
            said.append(line)
            if m := re.match(r'total\s+(\d+)', line): total = int(m[1])
            elif m := re.match(r'Job \d+: == (.*)', line):
                if at.startswith('A first look'): print('\n' + (home/'tables'/'summary.md').read_text())
                done, at = done + 1, m[1]
                print(f'\n== [{done} of {total}] {at}', flush=True)
            elif m := re.match(r'Error in rule (.+):', line): failed = called(m[1])
            elif line.startswith('Nothing to be done'): print('Nothing to be done: every stage is finished, from these very inputs.')
    if p.returncode and failed:
        print(f'\nStopped at {failed} (see above). Mend the cause and call make {"classifier" if target == "classifier" else "reproduce"} again: it goes on from there.')
    elif p.returncode: print(''.join(said), file=sys.stderr)
    return p.returncode


def called(rule):
    "How people know a rule of the Snakefile."
    m = re.fullmatch(rf"(?:(.+)_)?({'|'.join(NOTEBOOKS)})_(\d+)(?:_\d+)?", rule)
    if m: return f"{m[1] + ', s' if m[1] else 'S'}eed {m[3]}: {NOTEBOOKS[m[2]]}"
    return f"paper/{rule.removeprefix('page_')}" if rule.startswith('page_') or rule == 'claims' else 'the classifier' if rule == 'classifier' else 'the table'


def one_row(study, row, runs):
    "The part of a study that a row of its table needs, and the path of its profile."
    part = only(study, [row])
    path = resolve(runs)/part.name/'profile.yaml'
    with atomic(path) as p: p.write_text(yaml.safe_dump(part.model_dump(exclude_none=True), allow_unicode=True, sort_keys=False))
    return part, str(path)


def parts(study, runs, target):
    "The folder of a target, and the profiles of the studies behind it."
    from dream_ood.paper import PAPER, paper_home, studies, write_studies   # slow to import
    kind, _, one = target.partition('/')
    if one not in dict(paper=['', *PAPER], runs=studies(study)).get(kind, ()):
        raise DreamError(f'There is no target {target!r}: use table1, paper, paper/ and one of {", ".join(PAPER)}, or runs/ and one of {", ".join(studies(study))}.')
    return paper_home(study, runs), [str(nice(p)) for p in write_studies(study, runs).values()]


def main(profile, seeds, runs, row='', target='table1'):
    study = load_profile(profile)
    if row and target != 'table1': raise DreamError('ROW is a row of table1: leave it out with another TARGET.')
    if row: study, profile = one_row(study, row, runs)
    if not re.fullmatch(r'\d+(,\d+)*', seeds): raise DreamError(f'SEEDS is {seeds!r}: give whole numbers with commas between, such as SEEDS=0,1,2.')
    home, profiles = (Run.open(study, seeds.split(',')[0], runs).folder.parent, [profile]) if target == 'table1' else parts(study, runs, target)
    home.mkdir(parents=True, exist_ok=True)
    with lock(home):
        end_orphans([profile, *profiles], runs)
        code = graph(profile, seeds, runs, home, target)
    if code: return code
    print('\n' + shown(home, target))
    return 0


def shown(home, target):
    "What a finished call ends with."
    if target == 'table1':
        return (home/'tables'/'summary.md').read_text() + f"""
Table 1    {home/'tables'/'table1.csv'} and .md
Gallery    {home/'figures'/'gallery.png'}
Notebooks  {home}/seed*/notebooks/, with every figure"""
    said = (home/'tables'/'claims.md').read_text() + '\n' if target == 'paper' else ''
    return said + f"""Tables     {home/'tables'}, as .md, .csv and .tex
Figures    {home/'figures'}, as .png and .pdf
Notebooks  {home/'notebooks'}"""


if __name__ == '__main__':
    try: sys.exit(main(*sys.argv[1:]))
    except DreamError as e: sys.exit(f'Error: {e}')
    except KeyboardInterrupt: sys.exit('Interrupted: call make reproduce again to go on from here.')
