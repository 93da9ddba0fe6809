"""Execute a notebook by papermill from the project's root: `python tools/execute.py NOTEBOOK OUTPUT key=value ...`.

The jobs of the Snakefile. A user's mistake (a DreamError in the notebook) ends in one sentence and exit code 2. Nothing of
dream_ood is imported here: the notebook's own kernel does that, and once is slow enough."""
import os, sys
from pathlib import Path

sys.modules['rfc3987_syntax'] = None   # jsonschema's check of addresses: no notebook needs it, and it takes longer to import than papermill
import papermill, yaml

ROOT = Path(__file__).resolve().parent.parent


class Mistake(Exception):
    "The sentence that a notebook ended in."


def execute_notebook(notebook, output, **parameters):
    "Run a notebook, show its progress, keep the executed copy; raises Mistake if the notebook ended in a DreamError."
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    name = Path(notebook).stem if 'seed' not in parameters else f"seed {parameters['seed']}, {Path(notebook).stem}"
    try: papermill.execute_notebook(str(notebook), str(output), parameters=parameters, cwd=str(ROOT), kernel_name='python3', progress_bar=dict(desc=name),
                                    stdout_file=sys.stdout, stderr_file=sys.stderr, extra_arguments=['--log-level=ERROR'])  # else each kernel warns of its own port
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
