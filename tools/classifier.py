"From a profile to a classifier that may say \"I don't know\": `python tools/classifier.py PROFILE SEED RUNS`."
import re, sys, time

from reproduce import end_orphans, graph, lock
from dream_ood.core import DreamError, nice
from dream_ood.study import load_profile
from dream_ood.runs import Run


def main(profile, seed, runs):
    study, began = load_profile(profile), time.time()
    if not re.fullmatch(r'\d+', seed): raise DreamError(f'SEEDS is {seed!r}: a classifier is made of one seed, a whole number such as SEEDS=0.')
    if not Run(study, seed, runs).stage('data').done:
        from dream_ood.classifier import check_study   # takes seconds to import, and a finished study needs it not
        check_study(study)
        print(f"{study.name}: {len(study.data.classes)} classes ({', '.join(study.data.classes)}); the images can all be read.")
    home = Run.open(study, seed, runs).folder.parent
    with lock(home):
        end_orphans([profile], runs)
        if code := graph(profile, seed, runs, home, 'classifier'): return code
    folder = nice(home/'classifier')
    print(f'''
Classifier  {folder}
Report      {folder}/report.html
Minutes     {(time.time()-began)/60:.1f}

from dream_ood.classifier import load
classify = load('{folder}')
classify('photo.jpg')    # {study.data.classes[0]!r}, or "I don't know"''')
    return 0


if __name__ == '__main__':
    try: sys.exit(main(*sys.argv[1:]))
    except DreamError as e: sys.exit(f'Error: {e}')
    except KeyboardInterrupt: sys.exit('Interrupted: call make classifier again to go on from here.')
