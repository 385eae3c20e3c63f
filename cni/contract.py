"""The messages on the agent's socket, for both ends.

A unix stream socket, mode 0600; one request and one answer each connection. A request is fields joined by
NUL, its end is the shutdown of the writing side. The first field names the kind:

* ``cni1``: command, container id, netns, interface name, CNI_ARGS, CNI_PATH, then the configuration exactly as
  the runtime gave it on stdin (JSON holds no raw NUL). The answer is ``OK`` alone, or ``ER`` and the CNI error
  object as JSON, to be printed as it is.
* ``ctl1``: one JSON object ``{"call": NAME, ...arguments}``. The answer is one JSON object: the result, or
  ``{"error": TEXT, "hint": TEXT}``.

Imports nothing: the plugin imports this module at each pod start.
"""

CNI = b"cni1"
CONTROL = b"ctl1"
OK = b"OK"
ERROR = b"ER"

ENVIRONMENT = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH")
"""The order of the fields of a ``cni1`` request."""

SOCKET = "/run/egress-gateway/agent.sock"
PLAN, PLAN_OUTDATED = "plan.json", "plan.outdated"
"""Files beside the socket: the plan, and a mark that the agent knew newer objects than the plan has."""
DEADLINE_S = 10.0
"""Time-out of the agent's answer: below the shortest time-out of the runtimes."""
MAX_REQUEST_BYTES = 4 << 20
"""Bytes that a request may have: larger ones are refused."""

# The numbers of the CNI specification 1.1, section "Error"; ours begin at 100.
INCOMPATIBLE_VERSION = 1
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
NOT_JSON = 6
INVALID_CONFIGURATION = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
NO_HOST_INTERFACE = 100
"""The result names no host-side veth (macvlan, host network, …)."""
NOT_AS_ADDED = 101
"""CHECK: the tag, a rule, a route or a table is not as ADD left it."""
KERNEL_REFUSED = 102
"""The kernel or nft refused a change."""
INTERNAL = 999
"""A defect of this program."""


class CNIError(Exception):
    """The error object of the CNI specification, section "Error", without its ``cniVersion``."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details
        """A hint, or the circumstances."""


def cni_request(environment: "tuple[bytes, ...]", configuration: bytes) -> bytes:
    """Return a ``cni1`` request; ``environment`` in the order of :data:`ENVIRONMENT`."""
    return b"\0".join((CNI, *environment, configuration))


def split_cni_request(request: bytes) -> "tuple[dict[str, str], bytes]":
    """Return environment and configuration of a ``cni1`` request. Raises :class:`ValueError` if it is none."""
    kind, *fields = request.split(b"\0", len(ENVIRONMENT) + 1)
    if kind != CNI or len(fields) != len(ENVIRONMENT) + 1:
        raise ValueError("not a cni1 request")
    return dict(zip(ENVIRONMENT, (os_text(field) for field in fields))), fields[-1]


def os_text(raw: bytes) -> str:
    """Return environment bytes as text; undecodable bytes are surrogates, as ``os.fsdecode`` makes them."""
    return raw.decode("utf-8", "surrogateescape")
