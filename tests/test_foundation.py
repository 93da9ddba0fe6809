"""The foundation: what it refuses, that one token gives way and nothing else, and that an image depends on its own
seed alone."""
import json,shutil
import pandas as pd,pytest,torch,yaml
from pathlib import Path
from transformers import CLIPTokenizer
from dream_ood.foundation import *
from dream_ood.foundation import native_size
from dream_ood.core import DreamError
from dream_ood.study import Profile
from dream_ood.stages import foundation_of,taken_words

MINI = Path(__file__).parent.parent/'profiles'/'mini.yaml'
PROMPT = 'a picture of a {}'

@pytest.fixture(scope='module')
def pipe(): return tiny_pipeline()

@pytest.fixture(scope='module')
def saved(tmp_path_factory, pipe):
    d = tmp_path_factory.mktemp('model')/'tiny'
    pipe.save_pretrained(d)
    return d

@pytest.fixture
def model(saved, tmp_path): return Path(shutil.copytree(saved, tmp_path/'tiny'))

def changed(**foundation):
    d = yaml.safe_load(MINI.read_text())
    d['foundation'] |= foundation; d['data']['validation_outliers'] = None
    return Profile(**d)

def hooks(pipe): return len(pipe.text_encoder.get_input_embeddings()._forward_hooks)

# --- loading ---
def test_a_saved_model_loads_as_it_was(saved, pipe):
    got = load_foundation(saved)
    assert got.safety_checker is None and got.scheduler.config.prediction_type=='v_prediction'
    e = encode(pipe, PROMPT, ['coat'])
    assert generate(got, e, [3], 2, 3., 32).equal(generate(pipe, e, [3], 2, 3., 32))

def test_half_precision_from_a_profile(saved):
    assert foundation_of(changed(model=str(saved),dtype='float16')).unet.dtype==torch.float16

def drop_text_encoder(d):
    i = json.loads((d/'model_index.json').read_text()); i['text_encoder'] = [None,None]
    (d/'model_index.json').write_text(json.dumps(i))

def truncate(f): f.write_bytes(f.read_bytes()[:-1000])

@pytest.mark.parametrize('spoil,words', [
    (lambda d: shutil.rmtree(d), 'no folder'),
    (lambda d: (d/'model_index.json').unlink(), 'model_index.json'),
    (lambda d: (d/'model_index.json').write_text('{"a":'), 'not valid JSON'),
    (drop_text_encoder, 'no text_encoder'),
    (lambda d: shutil.rmtree(d/'vae'), "'vae'"),
    (lambda d: truncate(d/'unet'/'diffusion_pytorch_model.safetensors'), 'diffusion_pytorch_model.safetensors'),
    (lambda d: (d/'text_encoder'/'model.safetensors').write_bytes(b''), 'model.safetensors'),
    (lambda d: (d/'vae'/'diffusion_pytorch_model.safetensors').unlink(), 'could not be loaded'),
    (lambda d: (d/'tokenizer'/'tokenizer.json').write_text('{'), 'could not be loaded'),
])
def test_a_broken_model_is_one_sentence(model, spoil, words):
    spoil(model)
    with pytest.raises(DreamError, match=words) as e: load_foundation(model)
    assert '\n' not in str(e.value)

# --- words ---
@pytest.mark.parametrize('word', ['xylophone','trowser','tshrt','','coat xylophone','☂'])
def test_an_unknown_word_is_named(pipe, word):
    with pytest.raises(DreamError, match='does not know'): token_ids(pipe, word)
    with pytest.raises(DreamError, match='does not know'): encode(pipe, PROMPT, [word])

def test_a_foundation_that_lists_its_nouns_knows_whole_words_only(model):
    got = load_foundation(model)
    got.tokenizer = CLIPTokenizer().train_new_from_iterator([['star','fish']], vocab_size=4000, show_progress=False)
    assert known(got,'starfish')==(len(got.tokenizer.tokenize('starfish'))<=3)
    pd.DataFrame(dict(noun=['star','fish'])).to_csv(model/'nouns.csv', index=False)
    assert known(got,'star fish') and not known(got,'starfish')

def test_an_anchor_of_several_tokens_is_their_rescaled_mean(pipe):
    cat,dog,both = anchors(pipe, ['cat','dog','cat_dog'])
    assert torch.cosine_similarity(both,(cat+dog),dim=0)>1-1e-6 and abs(both.norm()-(cat.norm()+dog.norm())/2)<1e-6

def test_known_nouns_leave_out_id_classes_and_unknown_words(model):
    def others(p): return known_nouns(load_foundation(model), taken_words(p.data), p.foundation.nouns)
    pd.DataFrame(dict(noun=['cat','coat','xylophone','dog','cat'])).to_csv(model/'nouns.csv', index=False)
    p = changed()
    assert 'cat' in p.data.ood['photographs'].shows and others(p)==['dog']    # what a test set shows is no outlier
    p.data.ood.pop('photographs')
    assert others(p)==['cat','dog']
    (model/'nouns.csv').unlink()
    assert others(changed())==[]
    with pytest.raises(DreamError, match='no file'): others(changed(nouns=str(model/'mine.csv')))
    pd.DataFrame(dict(word=['cat'])).to_csv(model/'mine.csv', index=False)
    with pytest.raises(DreamError, match='no column'): others(changed(nouns=str(model/'mine.csv')))

# --- one token gives way ---
@pytest.mark.parametrize('prompt', ['{}', PROMPT, 'a {} of a picture', '{}, a picture'])
def test_a_nouns_own_embedding_gives_the_plain_prompt(pipe, prompt):
    nouns = ['coat','sneaker','cat']
    assert encode(pipe,prompt,anchors(pipe,nouns)).equal(encode(pipe,prompt,nouns))
    if not prompt.startswith('{},'):
        assert encode(pipe,prompt,nouns).equal(pipe.encode_prompt([prompt.format(n) for n in nouns],'cpu',1,False)[0])

def test_nothing_before_the_replaced_position_moves(pipe):
    a,b = encode(pipe, PROMPT, torch.randn(2,32,generator=torch.Generator().manual_seed(0)))
    position = prompt_ids(pipe,PROMPT)[1]
    assert a[:position].equal(b[:position]) and not a[position:].allclose(b[position:])

def test_each_row_takes_its_own_embedding(pipe):
    z = torch.randn(4,32,generator=torch.Generator().manual_seed(0))
    assert torch.allclose(encode(pipe,PROMPT,z), torch.cat([encode(pipe,PROMPT,x[None]) for x in z]), atol=1e-5)

def test_the_hook_goes_even_after_an_error(pipe):
    with pytest.raises(ZeroDivisionError):
        with replaced_token(pipe, torch.zeros(1,32), 1):
            assert hooks(pipe)==1
            1/0
    assert hooks(pipe)==0

@pytest.mark.parametrize('z,words', [(torch.zeros(2,768),'768.*32'), (torch.full((2,32),torch.nan),'NaN'),
                                     (torch.full((2,32),torch.inf),'infinity'), (torch.zeros(32),'width')])
def test_embeddings_that_do_not_fit_are_refused(pipe, z, words):
    with pytest.raises(DreamError, match=words): encode(pipe, PROMPT, z)
    assert hooks(pipe)==0

@pytest.mark.parametrize('prompt,words', [('a{} picture','stands apart'), ('no slot','stands apart'),
                                          ('{} {}','stands apart'), ('a picture of a {} '+'and a cat '*4,'shorten')])
def test_prompts_that_do_not_work_are_refused(pipe, prompt, words):
    with pytest.raises(DreamError, match=words): encode(pipe, prompt, torch.zeros(1,32))

# --- drawing ---
def test_an_image_depends_on_its_own_seed_alone(pipe):
    e = encode(pipe, PROMPT, ['coat','boot','cat','dog','coat'])
    all_ = generate(pipe, e, [1,2,3,4,5], 4, 3., 32)
    alone = torch.cat([generate(pipe, e[i:i+1], [i+1], 4, 3., 32) for i in range(5)])
    backwards = generate(pipe, e.flip(0), [5,4,3,2,1], 4, 3., 32).flip(0)
    assert all_.dtype==torch.uint8 and all_.shape==(5,3,32,32)
    assert (all_.int()-alone.int()).abs().max()<=2 and (all_.int()-backwards.int()).abs().max()<=2
    assert (all_[0]!=all_[4]).any()   # same words, other seed

def test_guidance_one_leaves_the_empty_prompt_out(pipe):
    e = encode(pipe, PROMPT, ['coat'])
    a,b = (generate(pipe, e, [1], 2, 1., 32, empty=x) for x in (None, torch.zeros(1,*e.shape[1:])))
    assert a.equal(b)

def test_images_are_resized_from_the_foundations_own_size(pipe):
    e = encode(pipe, PROMPT, ['coat'])
    assert native_size(pipe)==32 and generate(pipe, e, [1], 2, 3., 20).shape==(1,3,20,20)
    x = torch.randint(0,256,(3,3,20,20),dtype=torch.uint8)
    assert vae_roundtrip(pipe, x, batch_size=2).shape==x.shape

def test_the_round_trip_does_not_depend_on_the_batch(pipe):
    x = torch.randint(0,256,(5,3,32,32),dtype=torch.uint8)
    assert (vae_roundtrip(pipe,x,2).int()-vae_roundtrip(pipe,x,5).int()).abs().max()<=1

def test_tokens_as_wide_as_those_of_stable_diffusion_one():
    p = tiny_pipeline(d=768)   # the width of its tokens; anchors, prompts and drawing follow the model
    assert anchors(p,['cat']).shape==(1,768) and encode(p,PROMPT,torch.randn(2,768)).shape==(2,12,768)
    assert generate(p, encode(p,PROMPT,torch.randn(1,768)), [0], 1, 3., 32).shape==(1,3,32,32)

# --- families ---
@pytest.fixture(scope='module', params=FAMILIES)
def member(request, tmp_path_factory): # as it was made, and as it is loaded from disk
    made = tiny_pipeline(family=request.param)
    made.save_pretrained(tmp_path_factory.mktemp(request.param)/'model')
    return request.param,made,load_foundation(tmp_path_factory.getbasetemp()/f'{request.param}0'/'model')

def drawn(pipe, z, seeds, nouns, guidance=3.):
    return generate(pipe, conditions(pipe,PROMPT,z,nouns), seeds, 3, guidance, 32).int()

def test_every_family_draws_each_image_from_its_own_embedding(member):
    family,_,pipe = member
    z,nouns = torch.randn(3,32,generator=torch.Generator().manual_seed(1)),['coat','boot','cat']
    images = drawn(pipe, z, [1,2,3], nouns)
    assert images.shape==(3,3,32,32)
    swapped = drawn(pipe, z[[1,0,2]], [2,1,3], [nouns[i] for i in (1,0,2)])
    # two embeddings change places, and so do two images
    assert (swapped-images[[1,0,2]]).abs().max()<=2
    alone = torch.cat([drawn(pipe, z[i:i+1], [i+1], nouns[i:i+1]) for i in range(3)])
    assert (alone-images).abs().max()<=2
    # another embedding, another image
    assert (drawn(pipe, z.flip(0), [1,2,3], nouns)!=images).flatten(1).any(1)[[0,2]].all()
    # another seed, another image
    assert (drawn(pipe, z, [4,2,3], nouns)!=images).flatten(1).any(1).tolist()==[True,False,False]

def test_every_family_loads_as_it_was(member):
    family,made,pipe = member
    assert type(made)==type(pipe) and few_steps(pipe.scheduler)==(family in ('lcm','turbo'))
    # distilled for this solver
    if few_steps(pipe.scheduler): assert type(pipe.scheduler)==type(made.scheduler)
    z = torch.randn(2,32,generator=torch.Generator().manual_seed(1))
    assert drawn(made,z,[1,2],['coat','cat']).equal(drawn(pipe,z,[1,2],['coat','cat']))

def test_a_noun_and_its_own_embedding_are_the_same_prompt(member):
    _,_,pipe = member
    by_name,by_embedding = conditions(pipe,PROMPT,['coat','cat']),conditions(pipe,PROMPT,anchors(pipe,['coat','cat']),
        ['coat','cat'])
    assert all(torch.allclose(by_name[k],by_embedding[k],atol=1e-6) for k in by_name)

@pytest.mark.parametrize('zeros', [False,True])
def test_an_xl_prompt_is_what_diffusers_makes_of_it(zeros):
    pipe = tiny_pipeline(family='sdxl'); pipe.register_to_config(force_zeros_for_empty_prompt=zeros)
    ours,empty = conditions(pipe,PROMPT,['coat']),encode_empty(pipe)
    theirs = pipe.encode_prompt('a picture of a coat', None, 'cpu', 1, True)
    for a,b in zip((ours['prompt_embeds'],empty['prompt_embeds'],ours['pooled_prompt_embeds'],
                    empty['pooled_prompt_embeds']), theirs):
        assert torch.allclose(a,b,atol=1e-5)

def test_the_second_encoder_of_an_xl_reads_the_noun():
    pipe = tiny_pipeline(family='sdxl'); z = torch.randn(1,32)
    a,b = (conditions(pipe,PROMPT,z,[n]) for n in ('coat','cat'))
    assert (a['prompt_embeds'][...,:32].equal(b['prompt_embeds'][...,:32])
            and not a['prompt_embeds'][...,32:].equal(b['prompt_embeds'][...,32:]))
    assert not a['pooled_prompt_embeds'].equal(b['pooled_prompt_embeds'])

def test_another_kind_of_pipeline_is_refused(model):
    i = json.loads((model/'model_index.json').read_text()); i['_class_name'] = 'StableDiffusionImg2ImgPipeline'
    (model/'model_index.json').write_text(json.dumps(i))
    with pytest.raises(DreamError, match='StableDiffusionImg2ImgPipeline'): load_foundation(model)

def test_a_latent_consistency_pipeline_is_taken_by_its_parts(tmp_path):
    from diffusers import LatentConsistencyModelPipeline
    made = tiny_pipeline(family='lcm')
    LatentConsistencyModelPipeline(**made.components, requires_safety_checker=False).save_pretrained(tmp_path/'lcm')
    z = torch.randn(2,32,generator=torch.Generator().manual_seed(1))
    assert drawn(load_foundation(tmp_path/'lcm'),z,[1,2],None).equal(drawn(made,z,[1,2],None))

# --- solvers and sizes ---
def test_settings_at_their_default_leave_a_study_as_it_was():
    d = changed().decoding.model_dump()
    assert 'scheduler' not in d and 'size' not in d
    p = changed().model_dump(); p['decoding'] |= dict(scheduler='pndm', size=64)
    assert (Profile(**p).decoding.model_dump()==d|dict(scheduler='pndm', size=64)
            and Profile(**Profile(**p).model_dump())==Profile(**p))

def decoded_with(saved, **decoding):
    p = changed(model=str(saved)).model_dump(); p['decoding'] |= dict(steps=3)|decoding
    p = Profile(**p)
    return draw(foundation_of(p), torch.randn(1,32,generator=torch.Generator().manual_seed(0)), [1], **p.drawing)

def test_every_solver_draws_its_own_way(saved):
    drawn = {s:decoded_with(saved, scheduler=s) for s in (None,'dpm','unipc','ddim','euler','pndm','own')}
    assert drawn[None].equal(drawn['dpm']) and drawn['own'].equal(drawn['dpm'])   # the saved model's own is dpm
    assert len({bytes(x.numpy()) for s,x in drawn.items() if s not in (None,'own')})==5

def test_a_drawing_larger_than_the_image(saved):
    assert (decoded_with(saved, size=64).shape==(1,3,32,32)
            and not decoded_with(saved, size=64).equal(decoded_with(saved)))
    assert decoded_with(saved, size=32).equal(decoded_with(saved))
    with pytest.raises(DreamError, match='decoding.size is 30.*multiple of 4'): decoded_with(saved, size=30)

def test_a_distilled_model_keeps_its_solver():
    pipe = tiny_pipeline(family='lcm')
    assert type(use_solver(pipe).scheduler).__name__=='LCMScheduler'
    with pytest.raises(DreamError, match='distilled for LCMScheduler'): use_solver(pipe,'pndm')

def test_solvers_agree_where_steps_are_many(saved):
    p = changed(model=str(saved)); z = torch.randn(1,32,generator=torch.Generator().manual_seed(0))
    pipe = foundation_of(p)
    def drawn(solver, seed=1):
        return generate(use_solver(pipe,solver), conditions(pipe,p.foundation.prompt,z), [seed], 50, 1.5, 32).float()
    truth = drawn('dpm')
    other = (drawn('dpm',9)-truth).square().mean().sqrt()         # another seed, on whose scale images differ
    for s in SOLVERS: assert (drawn(s)-truth).square().mean().sqrt()<other/10, s

def test_modules_are_compiled_where_it_is_asked_for(foundation):
    study = yaml.safe_load(MINI.read_text())
    study['foundation']['model'] = str(foundation)
    for asked in (None, False, True):
        pipe = foundation_of(Profile(**study|dict(decoding=study['decoding']|dict(compile=asked))))
        assert [m._compiled_call_impl is not None for m in (pipe.unet,pipe.vae.decoder)]==[asked is True]*2
