"""Execute a notebook by papermill from the project's root: `python tools/execute.py NOTEBOOK OUTPUT key=value ...`.

The jobs of the Snakefile. A user's mistake (a DreamError in the notebook) ends in one sentence and exit code 2. Nothing of
dream_ood is imported here: the notebook's own kernel does that, and once is slow enough."""
import os, sys, tempfile
from pathlib import Path

sys.modules['rfc3987_syntax'] = None   # jsonschema's check of addresses: no notebook needs it, and it takes longer to import than papermill
import papermill, yaml
from jupyter_client import AsyncKernelManager

ROOT = Path(__file__).resolve().parent.parent


class Mistake(Exception):
    "The sentence that a notebook ended in."


class Sockets(AsyncKernelManager):
    "A kernel reached by files: ports of the machine are guessed, and two kernels started at once may guess the same."
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if os.name != 'nt': self.transport, self.ip = 'ipc', f"{os.environ['JUPYTER_RUNTIME_DIR']}/socket"


def execute_notebook(notebook, output, **parameters):
    "Run a notebook, show its progress, keep the executed copy; raises Mistake if the notebook ended in a DreamError."
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    name = Path(notebook).stem if 'seed' not in parameters else f"seed {parameters['seed']}, {Path(notebook).stem}"
    with tempfile.TemporaryDirectory(prefix='kernel-') as folder:
        os.environ['JUPYTER_RUNTIME_DIR'] = folder   # short: the name of a socket may have 107 letters, and a home folder may be deep
        try: papermill.execute_notebook(str(notebook), str(output), parameters=parameters, cwd=str(ROOT), kernel_name='python3', progress_bar=dict(desc=name),
                                        stdout_file=sys.stdout, stderr_file=sys.stderr, kernel_manager_class=Sockets, startup_timeout=600,
                                        extra_arguments=['--log-level=CRITICAL'])  # a kernel told to stop reports its own end as an error
        except papermill.PapermillExecutionError as e:
            if e.ename == 'DreamError': raise Mistake(e.evalue) from None
            raise


def main(notebook, output, *parameters):
    os.chdir(ROOT)
    try: execute_notebook(notebook, output, **{k: yaml.safe_load(v) for k, v in (p.split('=', 1) for p in parameters)})
    except Mistake as e:
        print(f'Error: {e}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
