"""Asks a node what an account spent, with code generated from the .proto files.

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -I proto/proto --python_out OUT --grpc_python_out OUT \
        proto/proto/tally/v1/common.proto proto/proto/tally/v1/ledger.proto \
        proto/proto/tally/v1/audit.proto
    PYTHONPATH=OUT python proto/contrib/python/audit.py 127.0.0.1:26650 --account 0 --out FOLDER

Prints the account's totals and its last receipts, and writes the receipt files
and the complete history to FOLDER. Nothing that the node says is believed
here; `tests/verifier/tally_verify.py` or `tally receipt verify` and `tally
history verify` check the files with the genesis alone.

Beyond loopback, with the login of the account's holder or an auditor:

    python proto/contrib/python/audit.py node.example:26650 --ca ca.crt \
        --jwt "$(tally auth jwt --key ann.key --genesis genesis.json)" --account 0 --out FOLDER
"""

import argparse
from pathlib import Path
from typing import Iterator

import grpc
from tally.v1 import audit_pb2, audit_pb2_grpc


def ct(micro: int) -> str:
    """Micro-CT as CT."""
    return f"{micro // 1_000_000}.{micro % 1_000_000:06}"


def entries(audit: audit_pb2_grpc.AuditServiceStub, account: int) -> Iterator:
    """All entries of an account, page by page."""
    request = audit_pb2.ListEntriesRequest(account=account, limit=1000)
    while True:
        page = audit.ListEntries(request)
        yield from page.entries
        if not page.next:
            return
        setattr(request, "from", page.next)


def history(audit: audit_pb2_grpc.AuditServiceStub, account: int) -> Iterator[bytes]:
    """The complete history of an account, as files."""
    request = audit_pb2.GetHistoryRequest(account=account)
    while True:
        answer = audit.GetHistory(request)
        yield answer.file
        if not answer.next_height:
            return
        request.from_height = answer.next_height


class Login(grpc.UnaryUnaryClientInterceptor):
    """Adds a token to each call."""

    def __init__(self, jwt: str) -> None:
        self.header = ("authorization", f"Bearer {jwt}")

    def intercept_unary_unary(self, continuation, details, request):
        metadata = [*(details.metadata or []), self.header]
        return continuation(details._replace(metadata=metadata), request)


def connect(node: str, ca: Path | None, jwt: str | None) -> grpc.Channel:
    """A channel to a node: TLS if there is an authority, a login if there is a token."""
    options = [("grpc.max_receive_message_length", 64 << 20)]
    if ca is None:
        channel = grpc.insecure_channel(node, options=options)
    else:
        channel = grpc.secure_channel(
            node, grpc.ssl_channel_credentials(ca.read_bytes()), options=options
        )
    return grpc.intercept_channel(channel, Login(jwt)) if jwt else channel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("node", help="host:port of its gRPC")
    parser.add_argument("--account", type=int, required=True)
    parser.add_argument("--last", type=int, default=20, help="receipts to fetch")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--ca", type=Path, help="certificate that the node's must lead to")
    parser.add_argument("--jwt", help="token to log in with")
    arguments = parser.parse_args()
    channel = connect(arguments.node, arguments.ca, arguments.jwt)
    audit = audit_pb2_grpc.AuditServiceStub(channel)
    account = audit.GetAccount(audit_pb2.GetAccountRequest(account=arguments.account))
    for totals in account.totals:
        number = getattr(totals, "class")
        print(f"class {number}: available {ct(totals.available)} CT, spent {ct(totals.spent)} CT")
    arguments.out.mkdir(parents=True, exist_ok=True)
    receipts = [e for e in entries(audit, arguments.account) if e.WhichOneof("fact") == "receipt"]
    for entry in receipts[-arguments.last :]:
        found = audit.GetReceipt(audit_pb2.GetReceiptRequest(index=entry.index))
        (arguments.out / f"{entry.index}.receipt").write_bytes(found.file)
        print(f"entry {entry.index}: charged {ct(entry.receipt.charged)} CT")
    for number, file in enumerate(history(audit, arguments.account)):
        (arguments.out / f"{arguments.account}-{number}.history").write_bytes(file)


if __name__ == "__main__":
    main()
