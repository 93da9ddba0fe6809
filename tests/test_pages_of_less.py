"Every page of nbs/paper on a study that lacks what the bundled one has; what is not there is not told."
import re,shutil
import pandas as pd,pytest,yaml
from dream_ood.claims import CLAIMS
from dream_ood import paper
from dream_ood.paper import PAPER,paper_home
from dream_ood.study import load_profile
from pages import ROOT,executed,fewer,make_runs,small_profile

@pytest.fixture(scope='module', autouse=True)
def at_root():
    with pytest.MonkeyPatch.context() as m:
        m.chdir(ROOT); yield

@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    """One seed of a profile as the paper's are: far OOD sets alone, no validation outliers, no real outliers, no
    other nouns, one size of Dream-ID; its path and runs."""
    d = small_profile()
    for k in ('wide','validation_outliers'): d['data'].pop(k, None)
    d['data']['ood'] = {n:s for n,s in d['data']['ood'].items() if s['group']=='far'}
    d['foundation']['model'] = 'without_nouns'
    d['training']['finetune']['vae_fraction'] = 0.
    keep = {n:c for n,c in d['training']['contenders'].items() if (c or {}).get('outliers','knn')=='knn'}
    d['training']['contenders'],d['evaluation']['methods'] = keep,{n:m
        for n,m in d['evaluation']['methods'].items() if m['contender'] in keep}
    d['sampling']['pools'] = {n:q for n,q in d['sampling']['pools'].items() if n in ('knn','inliers')}
    d['decoding']['pools'] = {n:q for n,q in d['decoding']['pools'].items() if n in ('knn','inliers','plain')}
    folder = tmp_path_factory.mktemp('bare')
    model = shutil.copytree(ROOT/'dream_ood/assets/foundation', folder/'model'); (model/'nouns.csv').unlink()
    d |= dict(name='bare', foundation=d['foundation']|dict(model=str(model)),
              paper=dict(backbones=['mobilenetv3_small_050']))
    (folder/'bare.yaml').write_text(yaml.safe_dump(d, sort_keys=False))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(paper, 'axes', fewer)
        make_runs(folder/'bare.yaml', [0], folder/'runs')
        yield folder/'bare.yaml',folder/'runs'

@pytest.mark.parametrize('name', PAPER)
def test_page_of_a_profile_that_has_less(name, bare):
    cells,made = executed(name, *bare, (0,))
    assert not [o for c in cells for o in c.get('outputs',[]) if o['output_type']=='error'] and made
    for t in {f for f in made if f.endswith('.md')}:
        assert not re.search(r'\bnan\b', (paper_home(load_profile(bare[0]),bare[1])/t).read_text()), t

def test_what_one_seed_or_no_near_set_cannot_tell_is_not_told(bare):
    home = paper_home(load_profile(bare[0]), bare[1])
    executed('claims', *bare, (0,))
    t = pd.read_csv(home/'tables/claims.csv')
    assert set(t.verdict) == {'no, undecided'} and set(CLAIMS)-set(t.key) == {'near_ood','dream_id_data',
                                                                              'alternatives_other_class_names'}
