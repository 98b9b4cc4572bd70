"""TEST ACCESS: a root shell in the front-end VM over SSH, port 2022, for the key that the build made for itself."""

import asyncio
import os
import socket

import asyncssh

PORT = 2022


async def serve(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run the command that the client asks for."""
    child = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", process.command or "exec sh"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/usr/sbin", "HOME": "/"},
    )
    try:
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        status = await child.wait()
        await process.stdout.drain()
        process.exit(status if status >= 0 else 128 - status)
    except (OSError, asyncssh.Error):
        pass  # the client closed this channel; its others must live on
    finally:
        if child.returncode is None:
            child.kill()


async def main() -> None:
    """Serve for ever."""
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"access\0")
    listener.bind(("::", PORT))
    await asyncssh.listen(
        sock=listener,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        authorized_client_keys="/etc/test-access/authorized_keys",
        process_factory=serve,
        encoding=None,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    os.chdir("/")
    asyncio.run(main())
