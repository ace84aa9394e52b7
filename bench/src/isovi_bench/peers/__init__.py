"""Methods published by others, each in an environment of its own that is called as a process."""

from __future__ import annotations

from isovi_bench.peers.adapter import PeerError
from isovi_bench.peers.environments import PEERS, Peer, Status, install, status

__all__ = ["PEERS", "Peer", "PeerError", "Status", "install", "status"]
