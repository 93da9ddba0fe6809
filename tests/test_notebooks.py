"Every notebook runs, in the paper's order, on a study made small (profiles/smoke.yaml); one test a notebook."
import json, shutil, sys
import nbformat, pytest
from pathlib import Path
from dream_ood.project import OURS
from dream_ood.stages import run_decoding
from dream_ood.study import load_profile, read_profile
from dream_ood.runs import NOTEBOOKS, Run, STAGES

ROOT = Path(__file__).parent.parent
from dream_ood.workflow import execute_notebook
from pages import finish, small_profile
PROFILE = str(ROOT/'profiles'/'smoke.yaml')

@pytest.fixture(scope='module', autouse=True)
def at_root():
    with pytest.MonkeyPatch.context() as m:
        m.chdir(ROOT)
        yield

@pytest.fixture(scope='module')
def runs(tmp_path_factory): return tmp_path_factory.mktemp('runs')

def cells(path):
    nb = nbformat.read(path, 4)
    assert not [o for c in nb.cells for o in c.get('outputs', []) if o.output_type == 'error']
    return [c for c in nb.cells if c.cell_type == 'code']

@pytest.mark.parametrize('notebook', ['00_runs', *NOTEBOOKS.values(), '04_search', '09_classifier', '09_handover',
                                      '10_openood'])
def test_stage_notebook(notebook, runs):
    out = runs/'executed'/f'{notebook}.ipynb'
    execute_notebook(f'nbs/{notebook}.ipynb', out, profile=PROFILE, seed=0, runs=str(runs))
    done = cells(out)
    assert all(c.execution_count for c in done if c.source.strip())
    print(f'{notebook}: {len(done)} cells, {sum(c.source.count("test_") + c.source.count("assert ") for c in done)} '
          'assertions')

@pytest.mark.parametrize('notebook', ['00_store', '01_parallel', '10_claims',
                                      '13_website', '09_nouns', '08_vlm', 'guide/extending'])
def test_notebook_that_needs_no_run(notebook, tmp_path):
    execute_notebook(f'nbs/{notebook}.ipynb', tmp_path/'out.ipynb')
    assert all(c.execution_count for c in cells(tmp_path/'out.ipynb') if c.source.strip())

def test_own_images(tmp_path):
    execute_notebook('nbs/09_own_images.ipynb', tmp_path/'out.ipynb', runs=str(tmp_path/'runs'))
    assert all(c.execution_count for c in cells(tmp_path/'out.ipynb') if c.source.strip())

def test_every_stage_is_done_and_says_where_it_came_from(runs):
    run = Run.open(PROFILE, 0, runs)
    for name in STAGES:
        stage = run.stage(name)
        assert stage.done, name
        p = stage._read('provenance.json')
        assert p['packages']['torch'] and p['inputs']['seed'] == 0 and p['outputs'], name

@pytest.mark.parametrize('seeds', [[0]])
def test_table_notebook(seeds, runs):
    import pandas as pd
    out = runs/'executed'/'table1.ipynb'
    execute_notebook('nbs/paper/table1.ipynb', out, profile=PROFILE, seeds=seeds, runs=str(runs))
    cells(out)
    home, study = runs/'smoke', load_profile(PROFILE)
    table = pd.read_csv(home/'tables'/'table1.csv')
    assert list(table) == ['method', 'ood_set', 'group', 'seed', 'fpr95', 'auroc', 'aupr_in', 'aupr_out', 'id_acc']
    assert (set(table.method) == set(study.evaluation.methods)
            and {'near', 'far', 'sanity', 'control'} == set(table.group))
    assert not table.duplicated(['method', 'ood_set', 'seed']).any() and table.notna().all().all()
    for f in ('tables/table1.md', 'tables/summary.md', 'figures/gallery.png'): assert (home/f).stat().st_size > 0

@pytest.mark.parametrize('name,parameters', [('rules', {}), ('recipes', {}), ('scores', dict(left_out=[]))])
def test_studies_of_dreams(name, parameters, runs, tmp_path):
    import yaml
    smoke, study = small_profile(), read_profile(ROOT/'profiles'/f'mini_{name}.yaml')
    pools = {n: q | dict(per_class=2, k=5) | ({'select': 10, 'candidates': 20} if 'candidates' in q else {})
             for n, q in study['sampling']['pools'].items()}
    decoded = {n: q | ({'refuse': dict(confidence=.7, k=3)} if 'refuse' in q else {})
               | ({'steps': 4} if 'steps' in q else {}) | ({'per_class': 2} if 'per_class' in q else {})
               for n, q in study['decoding']['pools'].items()}
    smoke |= dict(name=f'smoke_{name}', sampling=dict(pools=pools))
    smoke['decoding']['pools'] = decoded | dict(plain=dict(source='class_names', per_class=2))
    smoke['training']['contenders'] = study['training']['contenders']
    rows = {k: study['evaluation'].get(k) for k in ('every', 'methods')}
    smoke['evaluation'] |= rows
    profile = tmp_path/f'smoke_{name}.yaml'
    profile.write_text(yaml.safe_dump(smoke, sort_keys=False))
    for seed in (0, 1): finish(Run.open(profile, seed, runs), [n for n in STAGES if n != 'dream_id'])
    out = runs/'executed'/f'{name}.ipynb'
    execute_notebook(f'nbs/paper/{name}.ipynb', out, profile=str(profile), seeds=[0, 1], runs=str(runs), **parameters)
    cells(out)
    assert (runs/f'smoke_{name}'/'tables'/f'{name}.csv').stat().st_size > 0

def test_where_seeds_differ(runs, tmp_path):
    import pandas as pd
    out, whole = tmp_path/'out.ipynb', Run.open(PROFILE, 0, runs)
    for n in ('data','foundation','latent_space','sampling','decoding'):
        shutil.copytree(whole.stage(n).folder, tmp_path/'smoke'/'seed0'/n)
    few = dict(profile=PROFILE, dreams='knn', pools=[0], starts=[0, 1], draws=2, runs=str(tmp_path))
    execute_notebook('nbs/paper/variance.ipynb', out, **few)
    cells(out)
    table = tmp_path/'smoke'/'variance'/'variance.csv'
    rows = pd.read_csv(table); assert not rows.duplicated(['start','pool','order','φ','remedy']).any()
    rows.iloc[:-1].to_csv(table, index=False)       # killed before the last one: only that is trained, and alike
    execute_notebook('nbs/paper/variance.ipynb', out, **few)
    pd.testing.assert_frame_equal(pd.read_csv(table), rows)

def test_later_methods(runs, tmp_path):
    import pandas as pd, yaml
    kept = ['cross-entropy','Dream-OOD','NCIS','GOOD, k-NN','FEVER-OOD','ASCOOD']
    for left in ('trouser','coat'):
        d, later = small_profile(), read_profile(ROOT/f'profiles/mini_later/{left}.yaml')
        d['name'] = f'smoke_later_{left}'
        d['data']['classes'].remove(left)
        d['data']['ood'][left] = later['data']['ood'][left] | dict(per_class=10)
        d['sampling'] = dict(pools={n: later['sampling']['pools'][n] | more for n, more in dict(
            knn=dict(per_class=2, k=5, select=10, candidates=20), ncis=dict(per_class=2, k=5, fit_steps=2),
            inliers=dict(per_class=2, k=5, select=10, candidates=20)).items()})
        pools = {n: later['decoding']['pools'][n] for n in ('knn','ncis','good knn','inliers')}
        d['decoding']['pools'] = {n: {k: v for k, v in q.items() if k != 'refuse'}
                                  | (dict(per_class=2, guide=q['guide'] | dict(k=5)) if 'guide' in q else {})
                                  for n, q in pools.items()}
        d['training']['contenders'] = {n: c for n, c in later['training']['contenders'].items() if n in kept}
        d['evaluation'] |= {k: later['evaluation'].get(k) for k in ('every','methods')}
        (tmp_path/f'{left}.yaml').write_text(yaml.safe_dump(d, sort_keys=False))
        finish(Run.open(tmp_path/f'{left}.yaml', 0, runs), [n for n in STAGES if n != 'dream_id'])
    out = tmp_path/'out.ipynb'
    execute_notebook('nbs/paper/later.ipynb', out, studies=str(tmp_path/'{}.yaml'), held_out=['trouser','coat'],
                     seeds=[0], home=str(tmp_path/'home'), runs=str(runs))
    cells(out)
    t = pd.read_csv(tmp_path/'home'/'tables'/'later, Energy.csv')
    assert list(t.method) == kept and t['near FPR95'].notna().all()

def test_finished_stages_skip_themselves(runs):
    stage = Run.open(PROFILE, 0, runs).stage('dream_id')
    before = {f: f.stat().st_mtime_ns for f in stage.folder.rglob('*') if f.name != 'provenance.json'}
    execute_notebook(f'nbs/{NOTEBOOKS["dream_id"]}.ipynb', runs/'executed'/'again.ipynb', profile=PROFILE, seed=0,
                     runs=str(runs))
    assert before and before == {f: f.stat().st_mtime_ns for f in before}
    assert any('nothing to do' in str(c.get('outputs')) for c in cells(runs/'executed'/'again.ipynb'))

@pytest.mark.parametrize('notebook',
                         sorted(str(p.relative_to(ROOT/'nbs'))
                                for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts))
def test_committed_notebook_is_light_and_has_no_error(notebook):
    path = ROOT/'nbs'/notebook
    shown = json.dumps([c.get('outputs', []) for c in cells(path)])
    assert not any(w in shown for w in (*OURS, str(ROOT))), 'a path of the machine it ran on'
    for c in cells(path):   # without the mark papermill would leave them as they are
        if c.source.startswith('profile = ') or '\nruns = ' in c.source:
            assert 'parameters' in c.metadata.get('tags', []), c.source
    pictures = [d for c in cells(path) for o in c.get('outputs', [])
                for k, d in o.get('data', {}).items() if k.startswith('image/')]
    assert all(len(d)*3/4 < 200_000 for d in pictures), [round(len(d)*3/4000) for d in pictures]

def test_shards_of_decoding_end_in_the_same_bytes(runs, tmp_path):
    whole = Run.open(PROFILE, 0, runs)
    run = Run.open(PROFILE, 0, tmp_path)
    for n in ('data', 'foundation', 'latent_space', 'sampling'):
        shutil.copytree(whole.stage(n).folder, run.stage(n).folder)
    for i in (1, 0):
        execute_notebook('nbs/shards/decoding.ipynb', tmp_path/f'{i}.ipynb', profile=PROFILE, seed=0,
                         runs=str(tmp_path), shard=i, shards=2)
    def images(r): return {str(f.relative_to(r.folder)): f.read_bytes() for f in r.folder.glob('decoding/*/*/*.png')}
    assert images(run) == images(whole) and not run.stage('decoding').done
    run_decoding(run)
    assert run.stage('decoding').done
