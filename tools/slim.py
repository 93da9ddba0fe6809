"Make executed notebooks lighter: pictures in 256 colours where that helps, and nothing of what a kernel says of its own transport: `python tools/slim.py NOTEBOOK ...`."
import base64, io, sys

import nbformat
from PIL import Image

for path in sys.argv[1:]:
    nb = nbformat.read(path, 4)
    for c in nb.cells:
        if c.get('outputs'): c.outputs = [o for o in c.outputs if '[IPKernelApp]' not in o.get('text', '')]
    for data in (o.data for c in nb.cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {})):
        old, new = base64.b64decode(data['image/png']), io.BytesIO()
        if len(old) < 100_000: continue
        Image.open(io.BytesIO(old)).convert('RGB').quantize(256).save(new, 'PNG', optimize=True)
        if len(new.getvalue()) < len(old): data['image/png'] = base64.b64encode(new.getvalue()).decode() + '\n'
    nbformat.write(nb, path)
