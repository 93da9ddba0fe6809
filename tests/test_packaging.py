"What is said once is said everywhere: requirements, Python, version, and the schema of profiles."
import json, os, re, runpy, subprocess
from configparser import ConfigParser
from pathlib import Path

import jsonschema, pytest, yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from dream_ood.project import lowest, too_new
from dream_ood.study import profile_schema

ROOT = Path(__file__).parent.parent
PROFILES = sorted((ROOT/'profiles').rglob('*.yaml'))
SCHEMA = ROOT/'profiles'/'profile.schema.json'

def settings():
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

CFG = settings()
WANTED = {which: [Requirement(r) for r in CFG[f'{which}requirements'].split()]
          for which in ('', 'cpu_', 'gpu_', 'dev_')}

def listed(name):
    "The versions that a file of requirements/ has, by name; its lines are plain."
    lines = [l for l in (ROOT/'requirements'/f'{name}.txt').read_text().splitlines() if not l.startswith('#')]
    assert all(re.fullmatch(r'[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+', l) for l in lines)
    versions = {canonicalize_name(n): v for n, v in (l.split('==') for l in lines)}
    assert len(versions) == len(lines)
    return versions

# -- requirements -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('which', WANTED)
def test_every_requirement_has_a_lowest_version(which):
    for r in WANTED[which]: assert any(s.operator in ('>=', '==') for s in r.specifier), str(r)

def test_the_lock_has_every_requirement_in_a_version_that_is_allowed():
    lock = listed('lock')
    for r in (r for which in ('', 'cpu_', 'dev_') for r in WANTED[which]):
        assert r.specifier.contains(lock[canonicalize_name(r.name)]), f'{r}: {lock[canonicalize_name(r.name)]}'
    assert not {'dream-ood', 'pip', 'faiss-gpu-cu12'} & {*lock}

def test_the_lock_can_be_installed_by_the_oldest_python():
    "A patch release may be too old for a package: soupsieve 4 is not for 3.11.2, the Python of Debian 12."
    lock, wrong = listed('lock'), [l.split('==') for l in too_new(CFG['min_python']+'.0')]
    assert not [(n, v) for n, v in wrong if lock.get(canonicalize_name(n)) == v] and too_new('2.7.0')

def test_the_lowest_versions_are_those_of_the_settings():
    low, lock = listed('lowest'), listed('lock')
    assert [f'{n}=={v}' for n, v in low.items()] == [f'{canonicalize_name(n)}=={v}'
                                                    for n, v in (l.split('==') for l in lowest(ROOT/'settings.ini'))]
    assert {*low} <= {*lock} and all(Version(v) <= Version(lock[n]) for n, v in low.items())

def test_what_builds_a_package_is_among_the_requirements():
    said = re.search(r'requires = \[(.*)\]', (ROOT/'pyproject.toml').read_text())[1]
    assert {Requirement(r) for r in re.findall('"(.*?)"', said)} <= {*WANTED['dev_']}

@pytest.mark.parametrize('words,installs,locked', [
    ([], '.[cpu,dev]', True), (['GPU=1'], '.[gpu,dev]', True), (['LOCK='], '.[cpu,dev]', False)])
def test_make_installs_by_the_lock_unless_told_otherwise(words, installs, locked):
    ready = f'.venv/.ready-{"gpu" if "GPU=1" in words else "cpu"}'
    env = {k: v for k, v in os.environ.items() if not k.startswith('MAKE') and k not in ('LOCK', 'GPU')}
    said = subprocess.run(['make', '--dry-run', '--always-make', ready, *words], cwd=ROOT, env=env,
                          capture_output=True, text=True)
    [line] = [l for l in said.stdout.splitlines() if '--editable' in l]
    assert f"'{installs}'" in line and ("--constraint 'requirements/lock.txt'" in line) == locked

# -- what a package says of itself ------------------------------------------------------------------------------------
def test_classifiers_are_the_tested_pythons(monkeypatch):
    said = {}
    monkeypatch.setattr('setuptools.setup', said.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    pythons = [c.rsplit(' ', 1)[1] for c in said['classifiers'] if re.search(r'Python :: 3\.', c)]
    assert pythons == CFG['tested_pythons'].split() and said['python_requires'] == f">={CFG['min_python']}"
    assert all(Version(p) >= Version(CFG['min_python']) for p in pythons)

def test_everyone_names_the_same_python():
    assert f"Python {CFG['min_python']} or newer" in (ROOT/'README.md').read_text()
    make, major_minor = (ROOT/'Makefile').read_text(), CFG['min_python'].replace('.', ', ')
    assert f'sys.version_info < ({major_minor})' in make and f"older than {CFG['min_python']}" in make

def test_the_citation_is_of_this_version():
    d = yaml.safe_load((ROOT/'CITATION.cff').read_text())
    assert d['cff-version'] == '1.2.0' and {'message', 'title', 'authors', 'license'} <= {*d}
    assert (d['version'], d['repository-code'], d['title']) == (CFG['version'], CFG['git_url'], CFG['lib_name'])
    assert d['url'] == CFG['doc_host'] + CFG['doc_baseurl'] and all(r['authors'] for r in d['references'])

def test_the_changelog_names_this_version():
    assert re.search(rf"^## {re.escape(CFG['version'])}\b", (ROOT/'CHANGELOG.md').read_text(), re.M)

# -- the schema of profiles -------------------------------------------------------------------------------------------
def valid(d): return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(d)

def test_the_schema_is_that_of_the_code():
    assert json.loads(SCHEMA.read_text()) == profile_schema()

@pytest.mark.parametrize('path', PROFILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_profile_names_the_schema_and_follows_it(path):
    first, text = path.read_text().split('\n', 1)
    named = first.removeprefix('# yaml-language-server: $schema=')
    assert (path.parent/named).resolve() == SCHEMA
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(yaml.safe_load(text))

@pytest.mark.parametrize('text', [
    'based: profiles/mini.yaml', 'latent_space: {epoch: 3}', 'latent_space: {epochs: three}',
    'sampling: {pools: {knn: {rule: magic}}}', 'sampling: {pools: {knn: {per_clas: 3}}}',
    'data: {ood: {faces: {group: odd}}}', 'training: {contenders: {mine: {finetune: {step: 3}}}}'])
def test_a_mistake_is_marked(text):
    assert not valid(yaml.safe_load(text))

def test_nothing_is_required_and_null_takes_away():
    assert valid({}) and valid(dict(base='profiles/mini.yaml', name='mine', paper=None,
                                    data=dict(images='photos', train=None, ood=dict(faces=None))))
