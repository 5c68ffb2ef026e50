"""`python -m reclaim.sandbox`: the simulated world as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import signal

from reclaim.common.clock import open_clock

from .app import Sandbox


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m reclaim.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="HTTP port, 0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--smtp-port", type=int, default=8025, help="SMTP port, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--clock", default="system:", help="system: or file:///path (default: %(default)s)")
    parser.add_argument("--users", type=int, default=1_000, help="active full licences (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2024, help="the same seed gives the same org")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stopped.set)
    sandbox = Sandbox(
        clock=open_clock(arguments.clock),
        users=arguments.users,
        seed=arguments.seed,
        host=arguments.host,
        port=arguments.port,
        smtp_port=arguments.smtp_port,
    )
    async with sandbox:
        print(f"Salesforce  {sandbox.url}  client id {sandbox.client_id}  secret {sandbox.client_secret}")
        print(f"Mail        smtp://{sandbox.host}:{sandbox.smtp_port}  {sandbox.url}/mailbox")
        print(f"Control     {sandbox.url}/sandbox/docs", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_serve(_arguments()))
