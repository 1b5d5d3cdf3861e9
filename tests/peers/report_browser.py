"""Opens a report in headless Chromium and uses it as a person would, by pointer and keyboard, wide and on a phone, light and dark.

    report_browser.py CHROMIUM PAGE [FOLDER]      with a folder: pictures are left there

Talks to the browser over a pipe (Chrome DevTools Protocol), so that no port is opened and no package is needed.
"""

import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
# A browser that hangs is ended with this program, whose end closes its pipe.
LIMIT_S = 240

DESK = {"width": 1180, "height": 900, "deviceScaleFactor": 1, "mobile": False}


class Browser:
    """One tab."""

    def __init__(self, program, profile):
        here, there = os.pipe()
        back, forth = os.pipe()

        def pipes():
            # The browser reads descriptor 3 and writes descriptor 4; both ends are moved out of the way first.
            read, write = os.dup(here), os.dup(forth)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(here)
        os.close(forth)
        self.write, self.read = os.fdopen(there, "wb", 0), os.fdopen(back, "rb", 0)
        self.number, self.rest, self.events, self.session = 0, b"", [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.ask(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.rest:
            more = self.read.read(65536)
            if not more:
                raise SystemExit("the browser ended")
            self.rest += more
        first, self.rest = self.rest.split(b"\0", 1)
        return json.loads(first)

    def ask(self, method, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        self.write.write(json.dumps(request).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.events.append(message)

    def wait_for(self, event):
        while not any(seen.get("method") == event for seen in self.events):
            self.events.append(self.message())

    def value(self, expression):
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    def open(self, address, size, scheme):
        # An address that differs in its fragment alone would load nothing.
        self.load("about:blank")
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.load(address)

    def load(self, address):
        self.events.clear()
        self.ask("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired")

    def key(self, key, code):
        for kind in ["keyDown", "keyUp"]:
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text="\r" if key == "Enter" and kind == "keyDown" else "")

    def complaints(self):
        """What the page got wrong: errors, warnings, and requests for anything but itself."""
        self.value("new Promise((done) => setTimeout(done, 50))")
        found = []
        for event in self.events:
            params = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(params["exceptionDetails"]["text"])
                case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                    found.append(str(params["args"]))
                case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                    found.append(params["entry"]["text"])
                case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("file:", "about:", "data:")):
                    found.append("asks for " + params["request"]["url"])
                case "Page.javascriptDialogOpening":
                    found.append("opens a dialog: " + params["message"])
        return found

    def picture(self, folder, name, whole=False):
        if folder:
            taken = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
            pathlib.Path(folder, name + ".png").write_bytes(base64.b64decode(taken["data"]))


def narrow_enough(page, where):
    widths = page.value("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] <= widths[1], f"{where}: scrolls sideways, {widths[0]} of {widths[1]}"


def check(page, address, folder):
    page.open(address, DESK, "light")
    assert page.value("document.querySelector('main h2') !== null"), "there is a heading"
    total = page.value("document.querySelectorAll('details.rollout').length")
    assert total > 0, "there are rollouts"
    light = page.value("getComputedStyle(document.body).backgroundColor")
    page.picture(folder, "light")
    page.picture(folder, "light-whole", whole=True)
    narrow_enough(page, "wide")

    # The keyboard alone: the skip link comes first, and opens the way to a rollout; Enter opens it.
    page.key("Tab", 9)
    assert page.value("document.activeElement.className") == "skip", "the skip link is first"
    assert page.value("document.activeElement.getBoundingClientRect().top >= 0"), "and is seen"
    page.value("document.querySelector('details.rollout summary').focus()")
    outline = page.value("document.querySelector('details.rollout summary').matches(':focus-visible')")
    assert outline, "a focused rollout shows it"
    page.key("Enter", 13)
    assert page.value("document.querySelector('details.rollout').open"), "Enter opens a rollout"
    assert page.value("document.querySelectorAll('details.rollout[open] article.call').length > 0"), "it has calls"

    # Every rollout can be opened, and a token says its numbers by the arrow keys.
    page.value("document.querySelectorAll('details.rollout').forEach((one) => { one.open = true })")
    narrow_enough(page, "everything open")
    if page.value("document.querySelector('.tokens i[data-n]') !== null"):
        page.value("document.querySelector('.tokens').focus()")
        page.key("ArrowRight", 39)
        note = page.value("document.querySelector('.tokens').parentElement.querySelector('.token-note').textContent")
        assert "log-prob" in note, note
        shade = "getComputedStyle([...document.querySelectorAll('.tokens')].find((box) => /[pn][1-4]/.test(box.className))?.querySelector('i') ?? document.body).backgroundColor"
        before = page.value(shade)
        page.value("document.querySelector('input[value=advantage]').click()")
        assert page.value("document.documentElement.dataset.colour") == "advantage"
        assert page.value(shade) not in (before, "rgba(0, 0, 0, 0)"), "tokens are coloured by advantage"
        page.value("document.querySelector('input[value=change]').click()")
    page.value("document.querySelector('details.rollout').scrollIntoView()")
    page.picture(folder, "rollout")
    page.value("document.querySelectorAll('details.rollout').forEach((one, index) => { one.open = index === 0 })")

    # Filters: by words, by batch, by outcome; and back.
    shown = "[...document.querySelectorAll('details.rollout')].filter((one) => !one.hidden).length"

    def enter(field, text):
        page.value(f"(() => {{ const field = document.querySelector('{field}'); field.value = {json.dumps(text)};"
                   " field.dispatchEvent(new Event('input', {bubbles: true})) })()")

    enter("#find", "there is no such text anywhere")
    assert page.value(shown) == 0 and page.value("!document.querySelector('#nothing').hidden"), "nothing fits"
    enter("#find", "")
    assert page.value(shown) == total
    batch = page.value("document.querySelector('#by-batch').options[1].value")
    enter("#by-batch", batch)
    of_batch = page.value(f"[...document.querySelectorAll('details.rollout')].filter((one) => one.dataset.batch === {json.dumps(batch)}).length")
    assert page.value(shown) == of_batch > 0, "by batch"
    assert str(of_batch) in page.value("document.querySelector('#count').textContent")
    enter("#by-batch", "")
    for outcome in page.value("[...document.querySelector('#by-outcome').options].map((one) => one.value)"):
        enter("#by-outcome", outcome)
        assert 0 <= page.value(shown) <= total
        assert outcome or page.value(shown) == total
    enter("#by-outcome", "")
    assert not (found := page.complaints()), found

    # The same on a phone, in the dark.
    page.open(address + "#r1", PHONE, "dark")
    assert page.value("document.querySelector('#r1').open"), "a link opens its rollout"
    assert page.value("getComputedStyle(document.body).backgroundColor") != light, "the dark is dark"
    page.value("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    narrow_enough(page, "on a phone, everything open")
    small = page.value("[...document.querySelectorAll('form input, form select')].filter((one) => one.getBoundingClientRect().height < 40).length")
    assert small == 0, "fields are large enough for a finger"
    page.value("document.querySelectorAll('details').forEach((one) => { one.open = one.id === 'r1' })")
    page.value("document.querySelector('#r1').scrollIntoView()")
    page.picture(folder, "phone-rollout")
    page.value("scrollTo(0, 0)")
    page.picture(folder, "phone-dark")
    page.picture(folder, "phone-dark-whole", whole=True)
    assert not (found := page.complaints()), found

    page.open(address, DESK, "dark")
    page.picture(folder, "dark")
    page.picture(folder, "dark-whole", whole=True)
    assert not (found := page.complaints()), found
    return total


def main():
    program, page, *folder = sys.argv[1:]
    signal.alarm(LIMIT_S)
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, profile)
        try:
            total = check(browser, pathlib.Path(page).resolve().as_uri(), folder[0] if folder else None)
        finally:
            browser.process.kill()
            browser.process.wait()
    print(f"{total} rollouts opened and filtered")


if __name__ == "__main__":
    main()
