"A page in a real browser, headless, by the DevTools protocol."
import itertools,json,shutil,subprocess,time
from contextlib import contextmanager
import pytest
from websocket import create_connection

QUIET = ('--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync --remote-debugging-port=0 --remote-allow-origins=*')

class Page:
    "What a page shows, and what it asked of the network."
    def __init__(self, address):
        self.socket,self.numbers,self.events = create_connection(address, timeout=30),itertools.count(1),[]
        for domain in ('Page','Runtime','Network','Log'): self.call(f'{domain}.enable')
    def call(self, method, **params):
        n = next(self.numbers)
        self.socket.send(json.dumps(dict(id=n, method=method, params=params)))
        while (m := json.loads(self.socket.recv())).get('id')!=n: self.events.append(m)
        assert 'error' not in m, m
        return m['result']
    def open(self, url):
        self.call('Page.navigate', url=url)
        self.until("document.readyState=='complete'")
    def js(self, code):
        out = self.call('Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in out, out
        return out['result'].get('value')
    def until(self, code, seconds=20):
        end = time.time()+seconds
        while not self.js(code):
            assert time.time()<end, f'waited for {code}'
            time.sleep(.05)
    @property
    def requests(self):
        return [m['params']['request']['url'] for m in self.events if m.get('method')=='Network.requestWillBeSent']
    @property
    def complaints(self):
        return [m for m in self.events if m.get('method')=='Runtime.exceptionThrown'
                or m.get('method')=='Log.entryAdded' and m['params']['entry']['level']=='error']

@contextmanager
def browser(folder):
    "A fresh page of a fresh browser; the test is skipped where there is none."
    command = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)
    if not command: pytest.skip('there is no chromium or google-chrome on PATH')
    child = subprocess.Popen([command,*QUIET.split(),f'--user-data-dir={folder}','about:blank'],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port,end = folder/'DevToolsActivePort',time.time()+30
        while not (port.exists() and len(port.read_text().split())==2):
            assert child.poll() is None and time.time()<end, 'the browser does not start'
            time.sleep(.05)
        number,path = port.read_text().split()
        root = create_connection(f'ws://127.0.0.1:{number}{path}', timeout=30)
        root.send(json.dumps(dict(id=1, method='Target.createTarget', params=dict(url='about:blank'))))
        while (m := json.loads(root.recv())).get('id')!=1: pass
        yield Page(f"ws://127.0.0.1:{number}/devtools/page/{m['result']['targetId']}")
    finally:
        child.kill(); child.wait()
