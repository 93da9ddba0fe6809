"What is said once is said everywhere: the schema of profiles."
import json
from pathlib import Path

import jsonschema, pytest, yaml
from dream_ood.study import profile_schema

ROOT = Path(__file__).parent.parent
PROFILES = sorted((ROOT/'profiles').rglob('*.yaml'))
SCHEMA = ROOT/'profiles'/'profile.schema.json'

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
