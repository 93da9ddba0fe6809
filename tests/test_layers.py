"The house stands the right way up: the method knows no run, the stages know the method, the command line knows both."
import ast
from pathlib import Path
import pytest

ROOT = Path(__file__).parent.parent
GROUND = ['core', 'parallel', 'plots', 'settings', 'store']
METHOD = ['data', 'networks', 'foundation', 'latent_space', 'search', 'sampling', 'decoding', 'training', 'dream_id',
          'detectors', 'evaluation',
          'classifier', 'nouns', 'own', 'handover', 'vlm']

def tree(module): return ast.parse((ROOT/'dream_ood'/f'{module}.py').read_text())

def imported(module):
    "The modules of this package that a module imports, anywhere in it."
    found = set()
    for n in ast.walk(tree(module)):
        if isinstance(n, ast.ImportFrom):
            inside = n.level == 1 or (n.module or '').startswith('dream_ood')
            name = (n.module or '').removeprefix('dream_ood').strip('.')
            if inside: found |= {name.split('.')[0]} if name else {a.name for a in n.names}
        elif isinstance(n, ast.Import):
            found |= {a.name.split('.')[1] for a in n.names if a.name.startswith('dream_ood.')}
    return found

@pytest.mark.parametrize('module', GROUND + METHOD)
def test_the_method_knows_no_run(module):
    assert imported(module) <= {*GROUND, *METHOD} - {module}
    words = {n.id for n in ast.walk(tree(module)) if isinstance(n, ast.Name)}
    assert not words & {'Run', 'Stage', 'Profile', 'load_profile'}

@pytest.mark.parametrize('module', ['study', 'runs', 'stages'])
def test_stages_know_no_command_line(module):
    assert not imported(module) & {'report', 'paper', 'openood', 'planning', 'workflow', 'project', 'cli'}

def test_modules_import_in_one_direction():
    "No two modules import each other, at whatever distance."
    names = [f.stem for f in (ROOT/'dream_ood').glob('*.py') if not f.stem.startswith('_')]
    below = {m: imported(m) & {*names} for m in names}
    left = dict(below)
    while free := [m for m, needs in left.items() if not needs & set(left)]:
        for m in free: del left[m]
    assert not left, f'in a circle: {left}'

def test_every_public_function_of_the_method_has_a_docment():
    "One sentence at least, and a type for each parameter that has no default to read it from."
    for m in GROUND + METHOD:
        for f in (n for n in tree(m).body if isinstance(n, ast.FunctionDef) and not n.name.startswith('_')):
            assert ast.get_docstring(f) or len(f.body) == 1, f'{m}.{f.name} says nothing of itself'

# -- lines that can be read -------------------------------------------------------------------------------------------
def code_of(path):
    "The lines of a file that people write: of a notebook, its code cells; of a generated module, what nbdev adds not."
    if path.suffix != '.ipynb': return [l for l in path.read_text().splitlines() if not l.startswith('__all__')]
    import nbformat
    return [l for c in nbformat.read(path, 4).cells if c.cell_type == 'code' for l in c.source.splitlines()]

FILES = [f for pattern in ('nbs/*.ipynb', 'nbs/paper/*.ipynb', 'nbs/benchmarks/*.ipynb', 'nbs/shards/*.ipynb',
                           'nbs/guide/*.ipynb', 'dream_ood/*.py',
                           'tests/*.py', 'workflow/Snakefile', 'workflow/rules/*.smk', 'profiles/*.yaml', 'setup.py')
         for f in sorted(ROOT.glob(pattern)) if f.name != '_modidx.py']

@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_line_of_code_is_longer_than_120(path):
    assert [l for l in code_of(path) if len(l) > 120] == []

def test_stages_use_no_name_that_two_modules_have():
    "The stages take all public names of the method; one that two modules define would be the later module's, unseen."
    import dream_ood.stages as stages
    defined = {m: {n.name for n in tree(m).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != '_'}
               for m in GROUND + METHOD + ['study', 'runs']}
    explicit = {a.name for n in tree('stages').body if isinstance(n, ast.ImportFrom) for a in n.names}
    used = {n.id for n in ast.walk(tree('stages')) if isinstance(n, ast.Name)} - explicit
    twice = {n: [m for m in defined if n in defined[m]] for n in used if sum(n in d for d in defined.values()) > 1}
    own = {n.name for n in tree('stages').body if isinstance(n, ast.FunctionDef)}
    assert {n: ms for n, ms in twice.items() if n not in own} == {}
