"What is said in place of a word that the foundation does not know."
import pandas as pd, pytest
from dream_ood.core import ASSETS
from dream_ood.nouns import *
from dream_ood.nouns import advice
from dream_ood.settings import Data, Foundation

KINDS = word_kinds()
NOUNS = pd.read_csv(ASSETS/'foundation'/'nouns.csv').noun.tolist()
TABLE = ASSETS/'words'/'kinds.csv'
BUNDLED = Foundation(model='bundled', prompt='a picture of a {}')

def near(word, nouns=NOUNS): return suggestions(word, nouns, KINDS)
def data(*classes, **nouns): return Data.model_construct(classes=list(classes), nouns=nouns)

# -- the table --------------------------------------------------------------------------------------------------------
def test_every_noun_of_the_bundled_foundation_has_kinds():
    t = pd.read_csv(TABLE, keep_default_na=False).set_index('noun')
    assert t.index.is_unique and {*NOUNS} <= {*t.index}
    assert (t.kinds != '').all() and not t.kinds.str.contains(';;').any()

def test_the_table_is_small_and_has_its_licence_beside_it():
    assert TABLE.stat().st_size < 300_000
    said = (TABLE.parent/'README.md').read_text()
    assert 'WordNet 3.0 Copyright 2006 by Princeton University' in said and 'AS IS' in said

def test_the_table_is_no_part_of_a_foundation():
    "What lies in its folder is part of a study's fingerprint, and would end every recorded run."
    assert not (ASSETS/'foundation'/'kinds.csv').exists()

@pytest.mark.parametrize('noun,kind', [
    ('bat', 'mammal'), ('seal', 'mammal'), ('dolphin', 'mammal'), ('crane', 'device'), ('palm', 'tree'),
    ('turkey', 'bird'), ('kiwi', 'fruit'), ('kite', 'toy'), ('horn', 'musical instrument'), ('belt', 'clothing'),
    ('plate', 'tableware'), ('jigsaw', 'game'), ('polarbear', 'bear'), ('stopsign', 'sign'), ('rail', 'bar')])
def test_a_noun_means_what_its_pictures_show(noun, kind):
    assert kind in [k.split(' (')[0] for k in KINDS[noun].kinds]

# -- near words -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('word,first', [
    ('trowser', 'trouser'), ('Trousers', 'trouser'), ('ice cream', 'icecream'), ('polar_bears', 'polarbear'),
    ('T-shirt', 'tshirt'), ('helicoptre', 'helicopter'), ('sofa', 'couch'), ('aeroplane', 'airplane'),
    ('office chair', 'chair'), ('armchair', 'chair'), ('snowboots', 'boot'), ('golden retriever', 'dog')])
def test_near_in_spelling_or_another_word_for_it(word, first): assert near(word)[0] == first

@pytest.mark.parametrize('word,among', [
    ('kettle', {'teapot'}), ('sandal', {'sneaker', 'boot'}), ('penguin', {'gull', 'swan'}), ('mango', {'pear', 'kiwi'}),
    ('satsuma', {'orange', 'lemon'}), ('sweater', {'pullover'}), ('lorry', {'truck'})])
def test_near_in_kind(word, among): assert among <= {*near(word)}

def test_a_word_of_the_language_is_not_taken_for_a_misspelling():
    assert not {'shell'} & {*near('shelf')} and not {'pill'} & {*near('pillow')} and not {'snail'} & {*near('nail')}

@pytest.mark.parametrize('word', ['xyzzy', '', ' ', '日本', '1', 'n01440764'])
def test_nothing_is_near_nonsense(word): assert near(word) == [] == members(word, NOUNS, KINDS)

def test_so_many_and_of_the_list_alone_and_each_once():
    assert len(suggestions('fruit', NOUNS, KINDS, 7)) == 7 and suggestions('fruit', NOUNS, KINDS, 0) == []
    assert near('kettle', ['jar', 'spoon'])[0] == 'jar' and near('kettle', []) == []
    assert near('saber', ['sword', 'swords']) == ['sword'] and near('kettle', ['unheard of']) == []

@pytest.mark.parametrize('word,some,none', [
    ('fruit', {'apple', 'pear', 'banana', 'lime'}, {'potato', 'tree'}),
    ('tools', {'hammer', 'saw', 'wrench'}, {'boot'}),
    ('mammal', {'dog', 'bat', 'whale', 'seal'}, {'gull', 'fish'}), ('Vehicle', {'car', 'tractor', 'canoe'}, {'jar'}),
    ('musical_instruments', {'guitar', 'horn', 'flute'}, {'ruler'})])
def test_a_word_for_many_kinds_has_members(word, some, none):
    found = {*members(word, NOUNS, KINDS)}
    assert some <= found and not none & found and {*near(word)} <= found

def test_a_noun_is_no_member_of_itself(): assert 'bird' not in members('birds', NOUNS, KINDS)

# -- the sentence -----------------------------------------------------------------------------------------------------
def test_each_unknown_word_comes_with_what_to_try():
    words = ['kettle', 'fruit', 'xyzzy']
    said = unknown_words_error(words, data('boot', *words), BUNDLED)
    assert said.startswith("The foundation does not know the words 'kettle' (try teapot, "), said
    assert "'fruit' (a kind of things: take one of " in said and "'xyzzy': give each of these classes another" in said

def test_the_word_of_another_class_is_not_suggested():
    said = unknown_words_error(['sandal'], data('sandal', 'boot', 'gym_shoe', gym_shoe='sneaker'), BUNDLED)
    assert 'boot' not in said and 'sneaker' not in said and said.startswith("The foundation does not know the word '")
    # in the plural, though, it is the word itself that is suggested
    assert "'boots' (try boot)" in unknown_words_error(['boots'], data('boots', 'coat'), BUNDLED)

def test_many_words_are_not_all_named():
    words = [f'xyzzy {i}' for i in range(12)]
    assert ' and 3 more: give' in unknown_words_error(words, data(*words), BUNDLED)

def test_a_foundation_without_a_list_is_asked_for_words_of_the_table(tmp_path):
    import shutil
    model = shutil.copytree(ASSETS/'foundation', tmp_path/'model'); (model/'nouns.csv').unlink()
    other = Foundation(model=str(model), prompt='a picture of a {}')
    found = candidates(['kettle'], data('kettle', 'boot'), other)
    assert 'teapot' in found and 'boot' not in found
    assert 'teapot' in unknown_words_error(['kettle'], data('kettle', 'boot'), other)

def test_a_table_of_words():
    t = nouns_table(['kettle', 'boots', 'tool'], NOUNS, KINDS)
    assert t.known.tolist() == [False, True, False] and t.loc['tool', 'members'] > 5 and t.loc['boots', 'instead'] == ''

def test_advice_is_nothing_where_nothing_is_near(): assert advice('xyzzy', NOUNS, KINDS) == ''
