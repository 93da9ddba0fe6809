"""Mutation testing of the measures and of the sampler's core: one small change at a time, is any test against it?

Each mutant is a change to one function (an operator, a comparison, a number, a branch), set in place in a fork of one
process that has everything imported, and is given those quick tests that call the function. tests/mutants.csv has a row
for each, and, of those that no test is against, why: what is said there is kept. `make mutants` calls this;
ONLY=function,function takes some.
"""
import ast,copy,csv,importlib,inspect,json,os,resource,signal,sys,textwrap,time
from collections import Counter
from pathlib import Path

os.environ['HYPOTHESIS_PROFILE'] = 'mutants'
ROOT = Path(__file__).resolve().parent.parent
os.chdir(ROOT); sys.path.insert(0, str(ROOT)); sys.path.insert(0, str(ROOT/'tests'))
import pytest

TARGETS = { # module: (functions, files of tests, words of the quick ones among them)
    'evaluation': (
        'ranks metrics_of ood_metrics bootstrap_metrics _over over_seeds paired holm versus auroc_by_class ece '
        'coverage_curve', ['test_evaluation.py','test_properties.py'],
        'measures or fpr95 or corners or no_score or one_sentence or bootstrap or interval or paired or holm or auroc or '
        'coverage or calibration or pair_without'),
    'sampling': (
        'plain_distance plain_knn percentiles checked span recorded around_boundary _outward _inward knn inliers '
        'misread gaussian slerp', ['test_sampling.py','test_properties.py'],
        'distances or boundary_points or keeps or kept or percentiles or plain or misread or rounds or record or slerp or '
        'gaussian or one_sentence or shared or drift or inside or cannot_work or equal_embeddings')}
NOT = ('image or odin or detector_without or accuracy_refuses or validation or pictures or yaml or text or folder or '
       'damaged or whatever_the_block or too_few or changed_profile or noise_drawn or by_faiss or fit_is')
TABLE,SECONDS = Path(os.environ.get('MUTANTS') or ROOT/'tests'/'mutants.csv'),60   # of processor time, for one mutant
OTHER = {ast.Lt:ast.LtE, ast.LtE:ast.Lt, ast.Gt:ast.GtE, ast.GtE:ast.Gt, ast.Eq:ast.NotEq, ast.NotEq:ast.Eq,
         ast.Is:ast.IsNot,
         ast.IsNot:ast.Is, ast.In:ast.NotIn, ast.NotIn:ast.In, ast.Add:ast.Sub, ast.Sub:ast.Add, ast.Mult:ast.Div,
         ast.Div:ast.Mult, ast.FloorDiv:ast.Mult, ast.Pow:ast.Mult, ast.BitAnd:ast.BitOr, ast.And:ast.Or,
         ast.Or:ast.And}

def changed(n): # what stands in the place of a node, one for each mutant
    def one(**changes): c = copy.deepcopy(n); [setattr(c, k, v) for k,v in changes.items()]; return c
    match n:
        case ast.Compare():
            for i,o in enumerate(n.ops):
                if new := OTHER.get(type(o)): yield one(ops=[*n.ops[:i],new(),*n.ops[i+1:]])
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp():
            if new := OTHER.get(type(n.op)): yield one(op=new())
        case ast.UnaryOp(): yield n.operand
        case ast.Constant(value=bool(v)): yield one(value=not v)
        case ast.Constant(value=int(v)): yield one(value=v+1)
        case ast.Constant(value=float(v)): yield one(value=2*v or 1.)
        case ast.IfExp(): yield one(body=n.orelse, orelse=n.body)
        case ast.If(): yield one(test=ast.UnaryOp(ast.Not(), n.test))

def skipped(n): # what is said, not done
    return isinstance(n, (ast.Raise,ast.JoinedStr)) or isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)

def sites(n, at=()): # (path to a node, the node)
    for field,v in ast.iter_fields(n):
        if field in ('annotation','returns','decorator_list'): continue
        for i,c in enumerate(v) if isinstance(v, list) else [(None,v)]:
            if isinstance(c, ast.AST) and not skipped(c): yield (*at,(field,i)),c; yield from sites(c, (*at,(field,i)))

def mutants(module, names):
    "(function, line, what was, what is, the function's new tree)"
    tree = ast.parse(Path(module.__file__).read_text())
    for f in [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name in names]:
        for path,n in sites(f):
            for new in changed(n):
                whole = copy.deepcopy(f); x = whole
                for field,i in path[:-1]: x = getattr(x, field) if i is None else getattr(x, field)[i]
                field,i = path[-1]
                if i is None: setattr(x, field, new)
                else: getattr(x, field)[i] = new
                words = [(ast.unparse(v.test) if isinstance(v, ast.If) else ast.unparse(v)).splitlines()[0]
                         for v in (n,new)]
                yield f.name,n.lineno-f.lineno,*words,whole

def put_in(module, tree): # the function itself is changed: whoever imported it has the mutant
    new = {}
    exec(compile(ast.fix_missing_locations(ast.Module([tree], [])), '<mutant>', 'exec'), vars(module)|{}, new)
    old,new = getattr(module, tree.name),new[tree.name]
    old.__code__,old.__defaults__,old.__kwdefaults__ = new.__code__,new.__defaults__,new.__kwdefaults__

def names_in(tree): return {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(tree)
                            if isinstance(n, (ast.Name,ast.Attribute))}

def callers(module, items):
    "A function -> itself and all that may call it, by names, in the module and among the tests' helpers."
    used = {}
    for m in {module,*(i.module for i in items)}:
        for s in ast.parse(Path(m.__file__).read_text()).body:
            own = [s.name] if isinstance(s, (ast.FunctionDef,ast.ClassDef)) else [t.id
                for t in getattr(s, 'targets', ()) if isinstance(t, ast.Name)]
            for n in own: used.setdefault(n, set()).update(names_in(s))
    def above(name):
        found = {name}
        while more := {n for n,u in used.items() if u&found}-found: found |= more
        return found
    return above

class Trial:
    "In place of pytest's loop: all tests as they are (BASELINE=0: not), then those that may call it, for each mutant."
    def __init__(self, name, functions, kept): self.name,self.functions,self.kept,self.rows = name,functions,kept,[]
    def pytest_runtest_logreport(self, report): self.failed |= report.failed
    def run(self, item):
        self.failed = False
        item._initrequest()
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self.failed
    def pytest_runtestloop(self, session):
        self.module = importlib.import_module(f'dream_ood.{self.name}')
        wrong = [] if os.environ.get('BASELINE')=='0' else self.failing(session.items)
        for i in wrong: print(f'{i.nodeid} fails without a mutant, and is left out')
        above,items = callers(self.module, session.items),[i for i in session.items if i not in wrong]
        said = {i:names_in(ast.parse(textwrap.dedent(inspect.getsource(i.function)))) for i in items}
        for m in mutants(self.module, self.functions): self.judge(m, [i for i in items if said[i]&above(m[0])])
        return True
    def failing(self, items): # in a fork, too: threads that a test opened here would be missing in every later one
        there,here = os.pipe()
        if not (pid := os.fork()):
            try: os.write(here, json.dumps([n for n,i in enumerate(items) if not self.run(i)]).encode())
            finally: os._exit(0)
        os.close(here); os.waitpid(pid, 0)
        return [items[n] for n in json.loads(os.read(there, 2**16))]
    def judge(self, mutant, tests):
        *key,tree = mutant; start = time.time()
        if not (pid := os.fork()):
            try:
                for f in (1,2): os.dup2(os.open(os.devnull, os.O_WRONLY), f)
                used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
                resource.setrlimit(resource.RLIMIT_CPU, (used+SECONDS, used+SECONDS+5))
                signal.alarm(20*SECONDS)    # nor may it wait for ever
                put_in(self.module, tree)
                os._exit(0 if all(map(self.run, tests)) else 1)
            finally: os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        outcome = 'killed' if code==1 else 'too long' if code else 'survived'
        row = dict(zip(('module','function','line','was','is'), (self.name,*key)), outcome=outcome, tests=len(tests))
        row['why'] = self.kept.get(tuple(str(row[k]) for k in KEY), '') if outcome=='survived' else ''
        self.rows.append(row)
        print(f'{outcome:9}{time.time()-start:6.1f}s  {key[0]}+{key[1]}: {key[2]}  ->  {key[3]}', flush=True)

KEY = 'module','function','line','was','is'
def main():
    old = [*csv.DictReader(TABLE.open(newline=''))] if TABLE.exists() else []
    kept,rows = {tuple(r[k] for k in KEY):r['why'] for r in old},[]
    only = os.environ.get('ONLY','').replace(',',' ').split()
    for name,(functions,files,k) in TARGETS.items():
        wanted = [f for f in functions.split() if not only or f in only]
        if not wanted: rows += [r for r in old if r['module']==name]; continue
        trial = Trial(name, wanted, kept)
        assert not pytest.main([*(f'tests/{f}' for f in files), '-k', f'({k}) and not ({NOT})', '-q', '-p',
                                'no:cacheprovider',
                                '-p', 'no:xdist', '-p', 'no:cov', '-s'], plugins=[trial]), 'the tests do not run'
        rows += [r for r in old if r['module']==name and r['function'] not in wanted]+trial.rows
        with TABLE.open('w', newline='') as f:
            w = csv.DictWriter(f, [*KEY,'outcome','tests','why'], lineterminator='\n'); w.writeheader(); w.writerows(
                rows+[r for r in old if r['module'] not in {q['module'] for q in rows}])
    alive = [r for r in rows if r['outcome']=='survived']
    n = Counter(r['outcome'] for r in rows)
    print(f"{len(rows)} mutants: {n['killed']} killed, {n['too long']} ran without end, {len(alive)} survived, "
          f"of which {sum(bool(r['why']) for r in alive)} are explained")
    sys.exit(any(not r['why'] for r in alive))

if __name__=='__main__': main()
