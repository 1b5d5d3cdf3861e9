"""Makes a container on an Azurite server, which knows one account with a public key: azure_container.py URL CONTAINER."""

import base64
import hashlib
import hmac
import sys
import time
import urllib.error
import urllib.request
from email.utils import formatdate

ACCOUNT = "devstoreaccount1"
KEY = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
VERSION = "2021-08-06"

url, container = sys.argv[1:]
deadline = time.monotonic() + 60
while True:
    date = formatdate(usegmt=True)
    to_sign = "\n".join(
        ["PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{VERSION}"]
        + [f"/{ACCOUNT}/{ACCOUNT}/{container}", "restype:container"]
    )
    signature = base64.b64encode(hmac.new(KEY, to_sign.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(f"{url}/{ACCOUNT}/{container}?restype=container", data=b"", method="PUT")
    request.add_header("Content-Type", "")
    request.add_header("x-ms-date", date)
    request.add_header("x-ms-version", VERSION)
    request.add_header("Authorization", f"SharedKey {ACCOUNT}:{signature}")
    try:
        urllib.request.urlopen(request).close()
        break
    except urllib.error.HTTPError as error:
        sys.exit(f"the server refuses to make the container: {error} {error.read().decode()}")
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.1)
