"Run the graph of notebooks for one profile, or for one row of its table, then show that: `python tools/reproduce.py PROFILE SEEDS RUNS [ROW]`."
import fcntl, os, re, subprocess, sys
from contextlib import suppress
from pathlib import Path

import psutil, yaml
from dream_ood.runs import NOTEBOOKS, DreamError, Run, atomic, load_profile, only, resolve

OPTIONS = ['--cores', 'all', '--rerun-triggers', 'mtime', '--rerun-incomplete', '--keep-incomplete', '--nolock']


def lock(home):
    "Hold the study's folder: two calls at once would do the same work twice. The system frees it however this process ends."
    file = open(home/'.lock', 'w')
    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: raise DreamError(f'Another `make reproduce` is at work in {str(home)!r}: wait for it, or end it first.') from None
    return file


def end_orphans(profile, runs):
    "End what a killed call left running here: holding the lock, we know that nobody waits for it."
    for p in psutil.process_iter(['cmdline', 'cwd']):
        words = p.info['cmdline'] or []
        ours = f'profile={profile}' in words and f'runs={runs}' in words and {'snakemake', 'tools/execute.py'} & set(words)
        if ours and p.info['cwd'] == os.getcwd():
            print(f'An earlier call was killed and left process {p.pid} behind: ending it.')
            for child in [*p.children(recursive=True), p]:
                with suppress(psutil.NoSuchProcess): child.kill()


def graph(profile, seeds, runs, home, target='tables'):
    "Run snakemake up to a rule, and say only what a reader needs: which notebook is next, or that there is nothing to do."
    command = [sys.executable, '-m', 'snakemake', target, *OPTIONS, '--config', f'profile={profile}', f'seeds="{seeds}"', f'runs={runs}']
    said, total, done, at, failed = [], 0, 0, '', ''
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as p:
        for line in p.stderr:
            said.append(line)
            if m := re.match(r'total\s+(\d+)', line): total = int(m[1])
            elif m := re.match(r'Job \d+: == (.*)', line):
                if at.startswith('A first look'): print('\n' + (home/'tables'/'summary.md').read_text())
                done, at = done + 1, m[1]
                print(f'\n== [{done} of {total}] {at}', flush=True)
            elif m := re.match(r'Error in rule (\w+?)(?:_(\d+))?:', line): failed = f'Seed {m[2]}: {NOTEBOOKS[m[1]]}' if m[2] else 'the table' if target == 'tables' else f'the {target}'
            elif line.startswith('Nothing to be done'): print('Nothing to be done: every stage is finished, from these very inputs.')
    if p.returncode and failed:
        print(f'\nStopped at {failed} (see above). Mend the cause and call make {dict(tables="reproduce").get(target, target)} again: it goes on from there.')
    elif p.returncode: print(''.join(said), file=sys.stderr)
    return p.returncode


def one_row(study, row, runs):
    "The part of a study that a row of its table needs, and the path of its profile."
    part = only(study, [row])
    path = resolve(runs)/part.name/'profile.yaml'
    with atomic(path) as p: p.write_text(yaml.safe_dump(part.model_dump(exclude_none=True), allow_unicode=True, sort_keys=False))
    return part, str(path)


def main(profile, seeds, runs, row=''):
    study = load_profile(profile)
    if row: study, profile = one_row(study, row, runs)
    if not re.fullmatch(r'\d+(,\d+)*', seeds): raise DreamError(f'SEEDS is {seeds!r}: give whole numbers with commas between, such as SEEDS=0,1,2.')
    home = Run.open(study, seeds.split(',')[0], runs).folder.parent
    with lock(home):
        end_orphans(profile, runs)
        code = graph(profile, seeds, runs, home)
    if code: return code
    print('\n' + (home/'tables'/'summary.md').read_text())
    print(f"Table 1    {home/'tables'/'table1.csv'} and .md\nGallery    {home/'figures'/'gallery.png'}\nNotebooks  {home}/seed*/notebooks/, with every figure")
    return 0


if __name__ == '__main__':
    try: sys.exit(main(*sys.argv[1:]))
    except DreamError as e: sys.exit(f'Error: {e}')
    except KeyboardInterrupt: sys.exit('Interrupted: call make reproduce again to go on from here.')
