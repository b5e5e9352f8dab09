"""What one client can take from the server before it says who it is: gRPC's own limits, each tried with a hostile client."""

import sys
from typing import Final

# Of a connection, about 14 KiB each; the cap is below what a process may open, so that files and /metrics stay reachable.
_MOST_CONNECTIONS: Final = 10_000
_OTHER_FILES: Final = 128
# What a sender may have sent of a message that is not read yet.
WINDOW_BYTES: Final = 1 << 20


def channel_options(max_message_mib: int, *, reuse_port: bool = False) -> tuple[tuple[str, int], ...]:
    """Channel arguments of the server's port.

    Args:
        max_message_mib: largest message, each way, in MiB.
        reuse_port: whether other processes may listen on the same port, on purpose.
    """
    limit = max_message_mib << 20
    return (
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        # gRPC would inflate a message first and look at its size then: 2 MiB on the wire became 2160 MiB of memory. Compressed
        # messages come as they are, and `compression` inflates them up to the limit.
        ("grpc.per_message_decompression", 0),
        # Without a limit 20,000 open streams of one connection took 310 MiB, and opening and resetting 50,000 ("rapid reset")
        # 200 MiB; with it 18 and 14. Clients keep what is beyond it to themselves and send it when a stream ends.
        ("grpc.max_concurrent_streams", 1024),
        # What is not read is to stay with its sender. By default gRPC's windows grow with the speed of the network: 32 unread
        # requests of one connection took 492 MiB. With this window they take as many MiB, and a request of 560 KB needs no
        # second one; `Admission` bounds how many are unread.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        # Headers: 8 KiB, the default, hold any token; beyond 16 KiB the call is refused without looking at them.
        ("grpc.max_metadata_size", 8 << 10),
        ("grpc.absolute_max_metadata_size", 16 << 10),
        # Connections that say nothing: two minutes to begin is gRPC's default, and a file is held meanwhile.
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.http2.settings_timeout", 10_000),
        # Once a process has no files left it accepts nobody, probes neither; here the last ones are refused at once.
        ("grpc.max_allowed_incoming_connections", _most_connections()),
        # A client that idles so long has gone or can connect again; one that has a call or a stream open is not idle.
        ("grpc.max_connection_idle_ms", 900_000),
        # Whoever has vanished without a word (a cable, a sleeping laptop) is found out within 80 s, and its streams end.
        # By default that takes two hours. A timeout shorter than a minute counts only where both are set.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),
        # Clients may ping every 5 s, calls or none: behind load balancers they have to, and by default a server hangs up on
        # those who do so more often than every 5 minutes. The third that comes too soon ends the connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 2),
        # No grpc.max_connection_age_ms: it would cut streams without end.
        # Two servers on one port would share its requests without a word.
        ("grpc.so_reuseport", int(reuse_port)),
    )


def _most_connections() -> int:
    """As many as files may be opened, less those that the server needs itself."""
    if sys.platform == "win32":
        return _MOST_CONNECTIONS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else soft
    return max(16, min(_MOST_CONNECTIONS, files - _OTHER_FILES))
