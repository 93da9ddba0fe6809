"The command line: help at once, mistakes in one sentence, a classifier of a folder, light imports, and a schema."
import json, subprocess, sys
from pathlib import Path

import numpy as np, pytest, torch, yaml
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner
from dream_ood import cli
from dream_ood.core import DreamError
from dream_ood.study import Profile, load_profile

ROOT = Path(__file__).parent.parent
GROUP = get_command(cli.app)
COMMANDS = [(n,) for n in GROUP.commands] + [('project', n) for n in GROUP.commands['project'].commands]

@pytest.fixture
def call(capsys, monkeypatch):
    "The command in this process, at the project's root: exit code, and what it says."
    def calling(*args):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', ['dream-ood', *map(str, args)])
        with pytest.raises(SystemExit) as e: cli.main()
        return e.value.code or 0, *capsys.readouterr()
    return calling

def imported(code):
    "The modules that a piece of Python leaves imported."
    r = subprocess.run([sys.executable, '-c', f'{code}\nimport sys; print(*sys.modules)'], cwd=ROOT,
                       capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return set(r.stdout.split())

# -- help -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('words', COMMANDS, ids=' '.join)
def test_every_command_has_help_with_examples(words):
    r = CliRunner().invoke(cli.app, [*words, '--help'], env=dict(COLUMNS='200', TERM='dumb'))
    assert (r.exit_code == 0
            and (words == ('project',) or 'dream-ood' in r.output.split('Usage', 1)[1].replace('Usage: dream-ood',
            ''))), r.output

def test_help_waits_for_no_library():
    assert not {'torch', 'pandas', 'pydantic', 'yaml', 'papermill', 'snakemake',
                'diffusers'} & imported('import dream_ood.cli')

def test_a_job_imports_nothing_of_the_library():
    assert not {'torch', 'dream_ood.core', 'snakemake.workflow'} & imported('import dream_ood.cli, dream_ood.workflow')

def test_what_reads_profiles_and_runs_needs_no_torch():
    "The graph of a study asks for these in each of its processes, on a cluster twice a job."
    assert not {'torch', 'pandas', 'matplotlib'} & imported('import dream_ood.study, dream_ood.runs')

def test_the_stages_import_a_text_to_image_library_only_where_they_draw():
    found = imported('import dream_ood.stages')
    assert 'torch' in found and not {'diffusers', 'transformers', 'sklearn', 'torch._dynamo'} & found

def test_defaults_are_those_of_make():
    make = dict(l.split('?=') for l in (ROOT/'Makefile').read_text().splitlines() if '?=' in l)
    make = {k.strip(): v.strip() for k, v in make.items()}
    assert ((cli.MINI, cli.SEEDS, cli.RUNS, cli.TABLE1) == tuple(make[k]
        for k in ('PROFILE', 'SEEDS', 'RUNS', 'TARGET')) and make['ROW'] == '')

# -- mistakes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('args,words', [
    (('reproduce', '-p', 'profiles/none.yaml'), 'There is no profile'), (('reproduce', '-s', '0;1'), 'SEEDS'),
    (('reproduce', '-t', 'papers'), 'There is no target'),
    (('reproduce', '-t', 'paper', '--row', 'Energy'), 'ROW is a row'),
    (('plan', '-p', 'profiles/none.yaml'), 'There is no profile'),
    (('rates', '-p', 'profiles/none.yaml'), 'There is no profile'),
    (('reproduce', 'extra'), "'extra' is one word too many"),
    (('classifier', 'photos/none'), "There is no 'photos/none'"),
    (('classifier', 'nbs/shards'), 'it needs one for each class'),
    (('classifier', 'photos', '--seed', 'one'), 'a whole number'), (('predict', 'nbs', 'a.png'), 'holds no classifier'),
    (('check', 'settings.ini'), 'settings.ini')])
def test_a_mistake_is_one_sentence_and_exit_code_2(args, words, tmp_path, call):
    code, out, err = call(*args,
                          *(['--runs', tmp_path/'runs'] if args[0] in ('reproduce', 'plan', 'classifier') else []))
    assert code == 2 and err.startswith('Error: ') and words in err and len(err.strip().splitlines()) == 1, out + err
    assert not (tmp_path/'runs').exists()

def test_a_misspelt_key_is_told_before_what_it_leaves_out(tmp_path, call):
    p = tmp_path/'mine.yaml'
    p.write_text('base: profiles/own_small.yaml\nname: mine\ndata: {imagse: photos/shop}\n')
    code, out, err = call('check', p)
    assert code == 2 and "'imagse' is not a known key" in out + err, out + err

def test_a_bug_is_not_told_as_a_mistake():
    assert cli.sentence(DreamError('x')) == 'x' and cli.sentence(ValueError('x')) is None

def test_check_says_what_a_profile_is_and_goes_on_after_a_wrong_one(tmp_path, call):
    (tmp_path/'bad.yaml').write_text('base: profiles/smoke.yaml\nlatent_space: {epoch: 3}\n')
    code, out, err = call('check', tmp_path/'bad.yaml', 'profiles/smoke.yaml')
    assert (code == 2 and "'latent_space.epoch' is not a known key" in err
            and 'study smoke, 8 classes, 8 OOD sets, 11 rows' in out)

def test_the_schema_knows_every_section(call):
    code, out, err = call('schema')
    assert code == 0 and set(json.loads(out)['properties']) == {'base', *Profile.model_fields}

# -- a folder instead of a profile ------------------------------------------------------------------------------------
@pytest.fixture
def shop(tmp_path):
    for kind, c in enumerate(('boot', 'coat')):
        (tmp_path/'My Shop'/c).mkdir(parents=True)
        for i in range(60):
            x = np.random.default_rng(i+100*kind).integers(0, 60, (36, 40, 3)); x[::4] += 150*kind
            Image.fromarray(x.astype(np.uint8)).save(tmp_path/'My Shop'/c/f'{i}.png')
    return tmp_path/'My Shop'

@pytest.mark.parametrize('foundation,base', [('', 'own_pretrained'), ('bundled', 'own_small'),
                                             ('CompVis/stable-diffusion-v1-4', 'own')])
def test_the_profile_of_a_folder(shop, tmp_path, foundation, base):
    path = cli.profile_of(shop, tmp_path/'runs', foundation)
    assert (Path(path) == tmp_path/'runs'/'my_shop'/'profile.yaml'
            and yaml.safe_load(Path(path).read_text())['base'] == f'profiles/{base}.yaml')
    p = load_profile(path)
    assert bool(p.own) == (base != 'own_small')
    assert (p.name, p.data.classes, p.foundation.model) == ('my_shop', ['boot', 'coat'], foundation or 'bundled')

def test_a_changed_profile_is_kept_and_another_folder_of_that_name_is_not_mixed_in(shop, tmp_path):
    path = Path(cli.profile_of(shop, tmp_path/'runs'))
    path.write_text(path.read_text() + 'training: {epochs: 3}\n')
    assert load_profile(cli.profile_of(shop, tmp_path/'runs')).training.epochs == 3
    (tmp_path/'other'/'My Shop').mkdir(parents=True)
    with pytest.raises(DreamError, match='give this study a name of its own') as e:
        cli.profile_of(tmp_path/'other'/'My Shop', tmp_path/'runs')
    assert '\n' not in str(e.value)
    assert Path(cli.profile_of(tmp_path/'other'/'My Shop', tmp_path/'runs',
                               name='other')) == tmp_path/'runs'/'other'/'profile.yaml'

def test_a_folder_needs_no_profile(shop, tmp_path, monkeypatch):
    "In an empty folder: the call writes a profile, checks the images and asks the graph for a classifier."
    (tmp_path/'empty').mkdir(); monkeypatch.chdir(tmp_path/'empty')
    asked = []
    monkeypatch.setattr(cli, 'made', lambda home, profile, seeds, runs, target,
                        more=(): asked.append((str(home), profile, seeds, runs, target)))
    r = CliRunner().invoke(cli.app, ['classifier', '../My Shop'])
    assert r.exit_code == 0, (r.output, r.exception)
    [(home, profile, seeds, runs, target)] = asked
    assert ((seeds, runs, target) == (['0'], '_runs', 'classifier') and Path(home).name == 'my_shop'
            and load_profile(profile).data.classes == ['boot', 'coat'])
    assert ('the images can all be read' in r.output
            and 'dream-ood predict _runs/my_shop/classifier photo.jpg' in r.output)

def test_a_folder_with_a_broken_image_is_one_sentence(shop, tmp_path, call):
    (shop/'boot'/'3.png').write_bytes(b'no picture')
    code, out, err = call('classifier', shop, '--runs', tmp_path/'runs')
    assert code == 2 and '1 of your images cannot be read' in err.splitlines()[-1] and 'Traceback' not in err, err

# -- answers ----------------------------------------------------------------------------------------------------------
def test_a_foundation_that_is_none_is_told_at_once_and_leaves_nothing(shop, tmp_path, call):
    code, out, err = call('classifier', shop, '--runs', tmp_path/'runs', '--foundation', 'no/such')
    last = err.splitlines()[-1]
    assert (code == 2 and "foundation.model 'no/such' could not be loaded" in last and 'Traceback' not in err
            and not [*(tmp_path/'runs').rglob('*.yaml')]), (out, err)

def test_answers_are_written_as_table_csv_and_json():
    rows = [dict(file='a, b.png', answer='boot', probability=.98, score=3.25),
            dict(file='c.png', answer="I don't know", probability=.4, score=-1.)]
    table, text = (cli.written(rows, f) for f in (cli.Format.table, cli.Format.csv))
    assert (table.splitlines()[0].split() == ['file', 'answer', 'probability', 'score']
            and len({len(l) for l in table.splitlines()}) == 1)
    assert (text.splitlines()[1] == '"a, b.png",boot,0.98,3.25'
            and json.loads(cli.written(rows, cli.Format.json)) == rows)
    assert (cli.written([], cli.Format.csv).startswith('file,answer')
            and json.loads(cli.written([], cli.Format.json)) == [])

def test_folders_are_looked_through_for_images(tmp_path):
    for f in ('b.JPG', 'a.png', 'notes.txt', '.d.png', 'deep/c.heic'):
        (tmp_path/f).parent.mkdir(exist_ok=True); (tmp_path/f).touch()
    files, left = cli.listed([tmp_path, tmp_path/'notes.txt'])
    assert [f.name for f in files] == ['a.png', 'b.JPG', 'c.heic', 'notes.txt']
    assert len(left) == 1 and "1 file left out: 'notes.txt' (no picture)" in left[0]
