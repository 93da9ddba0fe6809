"Pages in a real browser, headless, by Playwright."
import shutil, time
from contextlib import contextmanager
import pytest

QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']

class Page:
    "What a page shows, what it asked of the network, and what went wrong on it."
    def __init__(self, page):
        self.page, self.requests, self.complaints = page, [], []
        page.on('request', lambda r: self.requests.append(r.url))
        page.on('requestfailed', lambda r: self.complaints.append(f'{r.url}: {r.failure}'))
        page.on('response', lambda r: r.status < 400 or self.complaints.append(f'{r.url}: {r.status}'))
        page.on('pageerror', lambda e: self.complaints.append(str(e)))
        page.on('console', lambda m: m.type == 'error' and self.complaints.append(m.text))
    def open(self, url): self.page.goto(url, wait_until='load')
    def js(self, code): return self.page.evaluate(code)
    def until(self, code, seconds=20):
        "Asks again and again from outside: Playwright's own waiting evals in the page, which our pages forbid."
        end = time.monotonic() + seconds
        while not self.js(code):
            if time.monotonic() > end: raise TimeoutError(f'{code}: not within {seconds} s')
            time.sleep(.05)

@contextmanager
def chromium():
    "A fresh browser; the test is skipped where there is none."
    from playwright.sync_api import sync_playwright
    command = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not command: pytest.skip('there is no chromium or google-chrome on PATH')
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=command, args=QUIET)
        try: yield b
        finally: b.close()

@contextmanager
def browser():
    "A fresh page of a fresh browser."
    with chromium() as b: yield Page(b.new_page())
