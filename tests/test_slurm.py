"""What the graph asks of a cluster, and the graph on one: a real Slurm of this machine, where one can be started."""
import os, shutil, subprocess, sys
from pathlib import Path
from types import SimpleNamespace as N

import pytest
from dream_ood import slurm
from dream_ood.core import load_json
from dream_ood.planning import ENOUGH, asks
from dream_ood.runs import STAGES
from dream_ood.study import load_profile
from test_workflow import hollow, project   # noqa: F401  a fixture

ROOT = Path(__file__).parent.parent

def rules(monkeypatch, profile, nodes, main=True, cores=None, **config):
    "What the rules are made from, as Snakemake would read it."
    monkeypatch.chdir(ROOT)
    there = dict(config=dict(runs='_nowhere') | config | dict(profile=f'profiles/{profile}.yaml'),
                 workflow=N(is_main_process=main, cores=cores, resource_settings=N(nodes=nodes)))
    exec(compile((ROOT/'workflow'/'rules'/'common.smk').read_text(), 'common.smk', 'exec'), there)
    return N(**there)

def asked(r, stage, parts=1, attempt=1, seed='0'):
    w = N(study=r.study.name, seed=seed)
    return {k: f(w, attempt) for k, f in r.asks(stage, parts).items()} | dict(threads=r.share(stage, parts)(w))

def test_a_job_of_a_big_study_asks_for_one_gpu_and_more_when_it_is_tried_again(monkeypatch):
    r = rules(monkeypatch, 'imagenet100', 20)
    plan = asks(r.study, 'decoding', 8)
    assert asked(r, 'decoding', 8) == plan | dict(threads=8) and plan['gpu'] == 1
    again = asked(r, 'decoding', 8, attempt=2)
    assert (again['gpu'], again['mem_mb'], again['runtime']) == (1, 2*plan['mem_mb'], 2*plan['runtime'])
    assert asked(r, 'data')['gpu'] == 0 and asked(r, 'data')['threads'] == 4
    assert asked(r, 'decoding')['runtime'] > plan['runtime'] > 30           # shards share the work

def test_miniatures_ask_for_no_gpu_and_one_machine_asks_for_nothing(monkeypatch):
    assert {asked(rules(monkeypatch, 'mini', 20), s)['gpu'] for s in STAGES} == {0}
    here = asked(rules(monkeypatch, 'imagenet100', None, cores=4), 'decoding', 2)
    assert here == dict(gpu=0, mem_mb=0, runtime=0, threads=2)

def test_a_job_uses_the_cores_that_it_was_granted(monkeypatch):
    monkeypatch.setenv('SLURM_CPUS_PER_TASK', '3')
    assert asked(rules(monkeypatch, 'mini', None, main=False, cores=64), 'data')['threads'] == 3
    assert asked(rules(monkeypatch, 'mini', None, cores=64), 'training')['threads'] == 64   # a call is no job

@pytest.mark.parametrize('config,lessons', [({}, 1), (dict(lessons=0), 0), (dict(target='paper'), 0)])
def test_stages_are_lessons_unless_asked_not_to_be(monkeypatch, tmp_path, config, lessons):
    assert rules(monkeypatch, 'smoke', None, cores=2, runs=str(tmp_path), **config).LESSONS == lessons

def test_without_rates_a_job_has_a_day():
    study = load_profile(ROOT/'profiles'/'imagenet100.yaml')
    from dream_ood.planning import read_rates
    assert asks(study, 'training', table=read_rates('none.csv'))['runtime'] == ENOUGH

def test_what_a_machine_lacks_is_one_sentence(monkeypatch):
    monkeypatch.setattr(slurm, 'tool', lambda name: None if name == 'slurmctld' else '/bin/true')
    assert 'no slurmctld' in slurm.lacking() and 'apt-get install slurmctld slurmd munge' in slurm.lacking()
    monkeypatch.setattr(slurm, 'tool', lambda name: '/bin/true')
    monkeypatch.setattr(slurm, 'find_spec', lambda name: None)
    assert 'snakemake-executor-plugin-slurm' in slurm.lacking()

@pytest.mark.skipif(bool(slurm.lacking()), reason=slurm.lacking())
def test_a_job_that_fails_is_tried_again_then_told_with_its_notebook(project):
    "On a real Slurm; then it is mended, and the graph completes."
    run = hollow(project)
    shutil.rmtree(run.stage('dream_id').folder)
    (project/'broken').touch()
    call = [sys.executable, '-m', 'dream_ood', 'reproduce', '-p', 'profiles/smoke.yaml', '-s', '0', '--', *slurm.ASIDE,
            '--max-threads', 3, '--set-resources', 'dream_id:gpu=1']
    call[call.index('--retries')+1] = 1
    with slurm.slurm() as env:
        def reproduce():
            r = subprocess.run([*map(str, call)], cwd=project, env=env, capture_output=True, text=True)
            return r.returncode, r.stdout + r.stderr
        code, said = reproduce()
        assert code and said.count('Failed: Seed 0: 07_dream_id') == 2 and said.count('is tried again') == 1, said
        assert 'DreamError: The image x.png is corrupt: delete it.' in said and "status is: 'FAILED'" in said, said
        assert 'notebooks/07_dream_id.ipynb' in said and 'slurm_logs' in said and 'Traceback' not in said, said
        assert said.count('Stopped at Seed 0: 07_dream_id') == 1
        (project/'broken').unlink()
        code, said = reproduce()
        assert code == 0 and 'gallery.png' in said, said
        done = slurm.jobs(env)
    assert [j['state'] for j in done] == ['FAILED', 'FAILED', 'COMPLETED', 'COMPLETED']
    first, again = done[:2]
    assert (first['gpus'], first['cpus']) == (1, 3) and again['mb'] == 2*first['mb'] > 4000
    assert load_json(run.stage('dream_id')/'r.json')['threads'] == 3

def test_the_profile_of_a_cluster_names_options_of_snakemake_and_rules_of_ours():
    import yaml
    from snakemake.cli import get_argument_parser
    profile = yaml.safe_load((ROOT/'workflow'/'profiles'/'slurm'/'config.yaml').read_text())
    known = {o for a in get_argument_parser()._actions for o in a.option_strings}
    assert {f'--{k}' for k in profile} <= known
    assert {*profile['set-resources'], *profile['set-threads']} <= {*STAGES, 'shard'}
