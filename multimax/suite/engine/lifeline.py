"""A connection of the first process with each other one, by which all learn at once that one of them has ended.

The exchanges of torch.distributed notice a lost process only when they next talk to it, which may be after a long
evaluation, and say nothing about what happened. The system closes the connections of a process however it ends, and
keep-alive probes find a machine that has gone; a process that fails says why before it goes. No timeout is set on the
others' work: a slow process is not a dead one.
"""

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

GRACE = 5.0  # seconds that a process has to end by itself after another one has failed
LEAVE = 20  # seconds that one which failed has to report it and end, before it is ended
# A machine that has gone is noticed after 15 + 4 * 5 seconds.
PROBES = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Lifeline:
    """Ties this process, ``rank`` of ``world``, to the first one, whose machine is ``host``.

    ``share`` adds numbers up over the processes.
    """

    def __init__(self, rank: int, world: int, host: str, share: Callable[[dict[str, float]], dict[str, float]]):
        self.rank, self.world = rank, world
        self.failure: str | None = None
        self.failed = threading.Event()
        self.closed = False
        self.lock = threading.Lock()
        self.peers: list[socket.socket] = []
        os.register_at_fork(after_in_child=self.forget)  # or a data loader's workers would hold the connection
        if rank == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            with socket.create_server(("", 0), family=family, backlog=world, dualstack_ipv6=both) as server:
                server.settimeout(60)
                secret = random.SystemRandom().getrandbits(50)  # keeps out whoever else looks at the port
                share({"port": server.getsockname()[1], "secret": secret})
                while len(self.peers) < world - 1:
                    self.welcome(server.accept()[0], secret)
        else:
            shared = share({"port": 0, "secret": 0})
            peer = socket.create_connection((host, int(shared["port"])), timeout=60)
            self.send(peer, secret=int(shared["secret"]), who=f"process {rank} of {world} on {socket.gethostname()}")
            self.watch(peer, peer.makefile(), "the first process")

    def welcome(self, peer: socket.socket, secret: int) -> None:
        peer.settimeout(60)
        try:
            reader = peer.makefile()  # the only one: it may hold what came after the greeting already
            hello = json.loads(reader.readline())
            if hello["secret"] == secret:
                self.watch(peer, reader, hello["who"])
        except (OSError, ValueError, KeyError, TypeError):
            peer.close()

    def watch(self, peer: socket.socket, reader: TextIO, who: str) -> None:
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in PROBES.items():
            if hasattr(socket, name):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.peers.append(peer)
        threading.Thread(target=self.listen, args=(reader, who), daemon=True).start()

    def listen(self, reader: TextIO, who: str) -> None:
        """Read what ``who`` says until it closes the connection."""
        with suppress(OSError, ValueError):
            if line := reader.readline():
                message = json.loads(line)
                if "failed" in message:
                    self.end(message["failed"])
                return
        self.end(f"{who} has ended without a word: it was killed, ran out of memory, or its machine has gone")

    def send(self, peer: socket.socket, **message: object) -> None:
        with suppress(OSError):  # of a peer that has ended, which listen() notices
            peer.sendall(f"{json.dumps(message)}\n".encode())

    def end(self, failure: str) -> None:
        """Another process has ended before its work was done: pass it on and end this one too."""
        with self.lock:
            if self.closed or self.failure:
                return
            self.failure = failure
        self.tell(failed=failure)  # before this process's own work hears of it, which may then end it at once
        self.failed.set()
        time.sleep(GRACE)  # this thread ends with the process
        print(f"error: {failure}; process {self.rank} of {self.world} ends with it", file=sys.stderr, flush=True)
        os._exit(1)

    def tell(self, **message: object) -> None:
        """Say something to the first process, or being it, to all others."""
        for peer in self.peers:
            self.send(peer, **message)

    def cause(self, wait: float = 0.0) -> str | None:
        """Why the other processes have ended, if they have by ``wait`` seconds from now."""
        self.failed.wait(wait)
        return self.failure

    def fail(self, reason: str) -> None:
        """Take the other processes down, and this one too if it does not manage to end."""
        if self.close(failed=f"process {self.rank} of {self.world} on {socket.gethostname()} failed: {reason}"):
            # What waits for a GPU that waits for another may never end, and does so when no thread of Python runs any
            # more: the system has to end it.
            with suppress(ValueError):  # outside of the main thread
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LEAVE)

    def close(self, **message: object) -> bool:
        """This process needs the others no more; False if another one has failed before."""
        with self.lock:
            if self.failure:
                return False
            self.closed = True
        self.tell(**(message or {"done": True}))
        return True

    def forget(self) -> None:
        while self.peers:  # close() would leave them open to the readers of the threads that are not in this process
            os.close(self.peers.pop().detach())
