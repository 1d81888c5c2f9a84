"""A certificate of this machine's own, so that a phone in the network sees a secure origin."""

import socket
import ssl

from keras_mobileone.benchmarking.browser.server import EVERYWHERE, own_address
from keras_mobileone.errors import MissingPackageError


def certificate(host: str) -> ssl.SSLContext:
    """Returns a TLS context with a new certificate for an address of this machine.

    No browser knows who has issued it: the user has to confirm it once.

    Args:
        host: The address at which the page is served.

    Raises:
        ImportError: If trustme is not installed.
    """
    try:
        import trustme
    except ImportError as error:
        raise MissingPackageError(
            "Expected the package trustme, which makes certificates. Received: it is not "
            "installed. Install it: pip install 'keras-mobileone[browser]'."
        ) from error
    names = {own_address() if host in EVERYWHERE else host, "localhost", socket.gethostname()}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(*sorted(names)).configure_cert(context)
    return context
