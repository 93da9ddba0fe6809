"""A Python that is warm: its libraries are imported once, and each further process is forked from it. A test that
starts `python -m dream_ood`, a kernel or Snakemake waits for no import; where the start itself is tested, COLD is used.

`sys.executable` of the tests is a small program that asks the server below, over a socket, for a process with its
arguments, folder, environment and open files, hands on signals, and ends as that process ends. Where it is ended
first, the process ends, too. Whatever else Python may be asked for (-c, other modules) begins cold."""
import atexit, contextlib, fcntl, gc, marshal, os, runpy, selectors, socket, stat, subprocess, sys, threading, traceback
import warnings
from pathlib import Path

COLD = sys.executable
MODULES = 'dream_ood', 'ipykernel_launcher', 'snakemake', 'accelerate.commands.launch'
CLIENT = '''#!{cold} -SE
import marshal, os, signal, socket, sys
def cold(): os.execv({cold!r}, [{cold!r}, *sys.argv[1:]])
args = sys.argv[1:]
if args[:1] == ['-u']: args.pop(0); os.environ['PYTHONUNBUFFERED'] = '1'      # as torch.distributed starts its ranks
if args[:1] != ['-m'] or args[1] not in {modules}: cold()
s = socket.socket(socket.AF_UNIX)
try: s.connect({server!r})
except OSError: cold()
asked = marshal.dumps(([sys.argv[0], *args], os.getcwd(), dict(os.environb)))
socket.send_fds(s, [len(asked).to_bytes(4, 'big')], [0, 1, 2])
s.sendall(asked)
def told():
    if len(n := s.recv(4)) < 4: sys.exit('The server of warm processes is gone.')
    return int.from_bytes(n, 'big', signed=True)
pid, parent = told(), os.getppid()
for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(n, lambda n, _: os.kill(pid, n))
if 'JPY_PARENT_PID' in os.environ: s.settimeout(1)     # a kernel ends with what started it
while True:
    try: code = told(); break
    except TimeoutError:
        if os.getppid() != parent: sys.exit(1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL); os.kill(os.getpid(), -code)
os._exit(code)
'''

def start(folder):
    "Start the server, and put beside it the program that stands for Python: its path, and what ends the server."
    server, python = str(folder/'server'), folder/'python'
    python.write_text(CLIENT.format(cold=COLD, server=server, modules=MODULES))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    p = subprocess.Popen([COLD, __file__, server], stdin=subprocess.PIPE, start_new_session=True)
    return str(python), p

def preload():
    "What the processes of tests import, and nothing that opens a thread or looks for a GPU."
    os.environ |= dict(PYTORCH_NVML_BASED_CUDA_CHECK='1', HF_HUB_OFFLINE='1')
    sys.modules.setdefault('rfc3987_syntax', None)      # as execute_notebook does
    import importlib
    names = sorted(f.stem for f in (Path(__file__).parent.parent/'dream_ood').glob('[a-z]*.py'))
    for n in (*(f'dream_ood.{n}' for n in names if n != '_modidx'), 'papermill', 'ipykernel.kernelapp', 'snakemake.cli',
              'snakemake.api', 'snakemake.workflow', 'jupyter_client.manager', 'matplotlib_inline.config',
              'diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion',
              'diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl', 'sklearn.manifold',
              'accelerate.commands.launch', 'torch.distributed.run', 'torch.distributed.launcher.api'):
        importlib.import_module(n)
    gc.collect(); gc.freeze()

def become(argv, cwd, env, files):
    "Be the process that was asked for."
    import numpy
    before = os.environ.get('OMP_NUM_THREADS'), os.environ.get('PYTHONPATH', '')
    for i, f in enumerate(files): os.dup2(f, i); os.close(f)
    os.chdir(cwd)
    os.environb.clear(); os.environb.update(env)
    for i, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'), (2, 'stderr', 'w')):
        f = open(i, mode, closefd=False, errors='backslashreplace' if i == 2 else 'strict')
        if i: f.reconfigure(line_buffering=i == 2 or f.isatty(), write_through='PYTHONUNBUFFERED' in os.environ)
        setattr(sys, name, f); setattr(sys, f'__{name}__', f)
    old = before[1].split(os.pathsep)
    new = [p for p in os.environ.get('PYTHONPATH', '').split(os.pathsep) if p]
    sys.path[:] = [cwd, *new, *(p for p in sys.path[1:] if p not in old)]
    sys.executable, sys.argv = argv[0], ['-m', *argv[3:]]
    numpy.random.seed()                                 # or every process would draw the same
    if w := os.environ.get('PYTHONWARNINGS'): warnings._processoptions(w.split(','))
    if (n := os.environ.get('OMP_NUM_THREADS')) != before[0]:
        import torch
        torch.set_num_threads(int(n or len(os.sched_getaffinity(0))))
    sys.modules.pop('matplotlib_inline.backend_inline', None)        # where it is imported it looks for a kernel
    inline = 'module://matplotlib_inline.backend_inline' if argv[2] == 'ipykernel_launcher' else None
    if b := os.environ.get('MPLBACKEND') or inline:
        import matplotlib
        matplotlib.rcParams['backend'] = b
    if any(k.startswith('COVERAGE_PROCESS') for k in os.environ):
        import coverage
        coverage.process_startup()
    if not hasattr(sys.modules.get(argv[2]), '__path__'): sys.modules.pop(argv[2], None)     # runs as __main__
    try: runpy.run_module(argv[2], run_name='__main__', alter_sys=True)
    except SystemExit as e:
        code = e.code
        if isinstance(code, str): print(code, file=sys.stderr)
        return code if isinstance(code, int) else int(code is not None)
    except KeyboardInterrupt: traceback.print_exc(); return 130
    except BaseException: traceback.print_exc(); return 1
    return 0

def leave(code):
    "End as Python does, but take nothing apart: that would copy what all processes share."
    threading._shutdown(); atexit._run_exitfuncs()
    for f in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception): f.flush()
    os._exit(code & 255)

def received(c):
    "What a client asks for."
    n, files, *_ = socket.recv_fds(c, 4, 3)
    n, data = int.from_bytes(n, 'big'), b''
    while len(data) < n:
        if not (more := c.recv(n-len(data))): break     # the client was killed
        data += more
    return *(marshal.loads(data) if len(data) == n > 0 else (None,)*3), files

def tell(c, n):
    with contextlib.suppress(OSError): c.sendall(n.to_bytes(4, 'big', signed=True))     # unless the client was killed

def serve(path):
    "Fork a process for each client; import what it needs when the first one comes."
    listening, looked = socket.socket(socket.AF_UNIX), selectors.DefaultSelector()
    listening.bind(path); listening.listen(64)
    looked.register(listening, selectors.EVENT_READ); looked.register(0, selectors.EVENT_READ)
    loaded = False
    while True:
        for key, _ in looked.select():
            if key.fileobj == 0: return                 # the tests are over
            if key.fileobj is listening:
                c, _ = listening.accept()
                if not loaded: preload(); loaded = True
                *asked, files = received(c)
                if asked[0] is None: c.close()
                elif pid := os.fork():
                    for f in files: os.close(f)
                    looked.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, c))
                    tell(c, pid)
                else:
                    os.setsid(); listening.close(); looked.close()
                    fcntl.fcntl(c, fcntl.F_SETOWN, os.getpid())      # its client's end sends SIGIO, which ends it
                    fcntl.fcntl(c, fcntl.F_SETFL, fcntl.fcntl(c, fcntl.F_GETFL) | os.O_ASYNC)
                    with contextlib.suppress(BlockingIOError):
                        if not c.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT): os._exit(1)    # it has ended already
                    leave(become(*asked, files))
            else:
                pid, c = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                looked.unregister(key.fileobj); os.close(key.fileobj)
                tell(c, code); c.close()

if __name__ == '__main__': serve(sys.argv[1])
